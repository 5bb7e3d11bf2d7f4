package app

import (
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// Sampling of repeated log messages.
const (
	samplePeriod     = time.Second
	sampleFirst      = 100
	sampleThereafter = 100
)

// NewLogger writes to w: lines for people on a terminal, and JSON with stable
// keys anywhere else, unless FETCH_LOG_FORMAT says otherwise. Times are UTC.
// Repeats of one message within a second are sampled: the first hundred, then
// every hundredth.
func NewLogger(c Config, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("%w: FETCH_LOG_LEVEL: %w", ErrConfig, err)
	}
	var encoder zapcore.Encoder
	if c.LogFormat == "console" || c.LogFormat != "json" && isTerminal(w) {
		encoder = zapcore.NewConsoleEncoder(forPeople(c.NoColor))
	} else {
		encoder = zapcore.NewJSONEncoder(forPrograms())
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(zapcore.NewSamplerWithOptions(core, samplePeriod, sampleFirst, sampleThereafter)), nil
}

func forPrograms() zapcore.EncoderConfig {
	c := zap.NewProductionEncoderConfig()
	c.TimeKey, c.MessageKey = "time", "message"
	c.EncodeTime = func(t time.Time, to zapcore.PrimitiveArrayEncoder) { to.AppendString(t.UTC().Format(time.RFC3339Nano)) }
	c.EncodeDuration = zapcore.StringDurationEncoder
	return c
}

func forPeople(noColor bool) zapcore.EncoderConfig {
	c := forPrograms()
	c.EncodeTime = func(t time.Time, to zapcore.PrimitiveArrayEncoder) { to.AppendString(t.UTC().Format("15:04:05.000Z")) }
	c.EncodeLevel = zapcore.CapitalColorLevelEncoder
	if noColor {
		c.EncodeLevel = zapcore.CapitalLevelEncoder
	}
	c.ConsoleSeparator = " "
	return c
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
