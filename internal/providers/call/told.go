package call

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// toldError says of a broken connection what everybody may know: the host that
// was asked for and what kind of failure it was. The cause has more (our
// resolver, addresses on both ends), is for the log, and is what errors.Is and
// errors.As see.
type toldError struct {
	text  string
	cause error
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.cause }

// told makes the error of a connection fit for those who are outside of our
// network.
func told(err error, host string) error { return &toldError{text: kind(err, host), cause: err} }

func kind(err error, host string) string {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var (
		lookup      *net.DNSError
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		timeout     net.Error
		op          *net.OpError
		number      syscall.Errno
	)
	switch {
	case errors.Is(err, ErrRetried), errors.Is(err, errNoAnswer), errors.Is(err, errEncoding):
		return err.Error()
	case errors.As(err, &lookup):
		switch {
		case lookup.IsNotFound:
			return "the name " + host + " is not known"
		case lookup.IsTimeout:
			return "the name " + host + " could not be looked up in time"
		}
		return "the name " + host + " could not be looked up"
	case errors.As(err, &certificate):
		return "the certificate of " + host + " cannot be verified"
	case errors.As(err, &alert), errors.As(err, &record):
		return "no TLS connection to " + host
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer from " + host + " in time"
	case errors.As(err, &number):
		return host + ": " + number.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return host + " broke off the connection"
	case errors.As(err, &op):
		err = op.Err
	}
	switch text := err.Error(); {
	case strings.Contains(text, "GOAWAY"): // with words of whoever sent it
		return host + " closed the connection"
	case noHTTP.MatchString(text):
		return host + " does not speak HTTP as it should"
	}
	return host + ": " + address.ReplaceAllLiteralString(err.Error(), "(address)")
}

// noHTTP is how net/http begins to quote what is no HTTP: the greeting of a mail
// server, a header of something that stands in between.
var noHTTP = regexp.MustCompile(`^(net/http: HTTP/1\.x transport connection broken|malformed |http2: |net/http: HTTP/2|invalid )`)

// address is an IP address in a text, with or without a port.
var address = regexp.MustCompile(`\[[0-9A-Fa-f:.%a-z]+\](:\d+)?|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\b[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{0,4}){3,7}(:\d+)?`)

func connectionErrorType(err error) string {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return errorTimeout
	}
	return errorNetwork
}
