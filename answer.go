package fetchworker

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Answer is what is stored under a request's result subject.
type Answer struct {
	Identity   Identity
	Status     Status
	Final      bool
	Review     bool // a failure that a person will see
	Generation int  // 1, raised by a person's requeue
	Source     Source
	HTTPStatus int // the provider's, 0 where there was none
	Calls      int // provider calls made so far
	Failures   int // those that count against the retries
	FetchedAt  time.Time
	Age        time.Duration
	Latency    time.Duration   // of the provider call
	Redacted   bool            // the body contained the provider's key
	Next       json.RawMessage // parameters of the next page
	NextLoop   bool            // the page leads back to itself: there is no Next
	Time       time.Time       // when the answer was made
	Digest     string          // of the request: see RequestDigest
	Reason     Reason          // why it is not final
	RetryAt    time.Time       // when the next attempt is due, where that is known
	Sequence   uint64          // its place among all answers that were stored, where that is known

	ContentType string
	SHA256      string   // of the body, lower-case hex
	Body        []byte   // the provider's bytes, untouched
	Problem     *Problem // instead of a body: why it failed or waits
	Claim       *Claim   // instead of a body: where a large one is stored

	// Damaged says that the body which is stored is not what was promised; it is
	// left out. A subscriber is handed such an answer, a client returns
	// ErrBodyCorrupt.
	Damaged bool
}

// Claim is the claim check of a body larger than MaxInlineBody.
type Claim struct {
	Prefix string // parts are stored under Prefix + "." + 1, 2, …
	Parts  int
	Bytes  int64
	SHA256 string // of the whole body, lower-case hex
}

// headerBodySHA256 is what headerSHA256 was called, on large bodies only, in
// answers that may still be stored.
const headerBodySHA256 = "Fetch-Body-Sha256"

// Err is the *Problem of a failed answer, and nil for any other.
func (a Answer) Err() error {
	if a.Status == StatusFailed && a.Problem != nil {
		return a.Problem
	}
	return nil
}

// Decode reads a JSON body into v. A failed or waiting answer, which has none,
// gives its *Problem.
func (a Answer) Decode(v any) error {
	if a.Problem != nil {
		return a.Problem
	}
	if err := json.Unmarshal(a.Body, v); err != nil {
		return fmt.Errorf("answer %s: %w", a.Identity, err)
	}
	return nil
}

// Rank orders the answers of one generation: waiting 1, provisional stale 2,
// final 3. What is stored is only ever replaced by a higher one.
func (a Answer) Rank() int {
	switch {
	case a.Final:
		return 3
	case a.Status == StatusStale:
		return 2
	default:
		return 1
	}
}

// Encode writes the answer as the message a worker publishes.
func (a Answer) Encode() *nats.Msg {
	h := header{Header: make(nats.Header, headersOfAnswer), values: make([]string, 0, headersOfAnswer)}
	m := &nats.Msg{Subject: a.Identity.under(putPrefix), Header: h.Header}
	if a.Time.IsZero() {
		a.Time = time.Now()
	}
	switch {
	case a.Problem != nil:
		m.Data = a.Problem.encode()
	case a.Claim == nil:
		m.Data = a.Body
	}

	// What is made for each is put together on the stack, and is one text.
	var room [textOfAnswer]byte
	text := append(room[:0], m.Subject[len(putPrefix):]...)
	text = strconv.AppendInt(append(text, '.'), int64(a.Generation), 10)
	text = strconv.AppendInt(append(text, '.'), a.Time.UnixNano(), 36)
	id := len(text)
	text = append(append(append(append(text, "/fetch/"...), a.Identity.Provider...), '/'), a.Identity.Operation...)
	source := len(text)
	text = a.Time.UTC().AppendFormat(text, time.RFC3339Nano)
	made := len(text)
	if !a.FetchedAt.IsZero() {
		text = a.FetchedAt.UTC().AppendFormat(text, time.RFC3339Nano)
	}
	fetched := len(text)
	if len(m.Data) > 0 {
		sum := sha256.Sum256(m.Data)
		text = hex.AppendEncode(text, sum[:])
	}
	all := string(text)

	h.Set(headerSpecVersion, "1.0")
	h.Set(headerEventID, all[:id])
	h.Set(headerEventType, "fetch.result")
	h.Set(headerEventSource, all[id:source])
	h.Set(headerSubject, a.Identity.ID)
	h.Set(headerEventTime, all[source:made])

	h.Set(headerRequestID, a.Identity.ID)
	h.Set(headerStatus, string(a.Status))
	h.Set(headerFinal, strconv.FormatBool(a.Final))
	h.setIf(a.Review, headerReview, "true")
	h.Set(headerGeneration, strconv.Itoa(a.Generation))
	h.Set(headerCalls, strconv.Itoa(a.Calls))
	h.Set(headerFailures, strconv.Itoa(a.Failures))
	h.setIf(a.Source != "", headerSource, string(a.Source))
	h.setIf(a.HTTPStatus != 0, headerHTTPStatus, strconv.Itoa(a.HTTPStatus))
	if !a.FetchedAt.IsZero() {
		h.Set(headerFetchedAt, all[made:fetched])
		h.Set(headerAge, strconv.FormatInt(int64(max(a.Age, 0)/time.Second), 10))
		h.Set(headerLatency, strconv.FormatInt(a.Latency.Milliseconds(), 10))
	}
	h.setIf(a.Redacted, headerRedacted, "true")
	h.setIf(a.Digest != "", headerDigest, a.Digest)
	if !a.Final {
		reason, retryAt := a.waitsFor()
		h.setIf(reason != "", headerReason, string(reason))
		h.setIf(!retryAt.IsZero(), headerRetryAt, retryAt.UTC().Format(time.RFC3339Nano))
	}
	h.setIf(len(a.Next) > 0, headerNext, string(a.Next))
	h.setIf(a.NextLoop, headerNextLoop, "true")

	contentType := a.ContentType
	switch {
	case a.Problem != nil:
		contentType = ProblemType
	case contentType == "":
		contentType = sniff(a.Body)
	}
	h.Set(headerContentType, contentType)
	if a.Problem == nil && a.Claim != nil {
		h.Set(headerBodyPrefix, a.Claim.Prefix)
		h.Set(headerBodyParts, strconv.Itoa(a.Claim.Parts))
		h.Set(headerBodyBytes, strconv.FormatInt(a.Claim.Bytes, 10))
		a.SHA256 = a.Claim.SHA256
	}
	if len(m.Data) > 0 {
		a.SHA256 = all[fetched:]
	}
	h.setIf(a.SHA256 != "", headerSHA256, a.SHA256)
	return m
}

// waitsFor is why an answer is not final: of a waiting one its problem knows.
func (a Answer) waitsFor() (Reason, time.Time) {
	reason, retryAt := a.Reason, a.RetryAt
	if a.Problem != nil && reason == "" {
		reason = a.Problem.Reason()
	}
	if a.Problem != nil && retryAt.IsZero() {
		retryAt = a.Problem.RetryAt
	}
	return reason, retryAt
}

func sumOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hexText(sum[:])
}

// sniff is the type of a body that its provider named none for.
func sniff(body []byte) string {
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) > 0 && (body[0] == '{' || body[0] == '[') {
		return "application/json"
	}
	return "application/octet-stream"
}

// header fills a map of headers whose values lie in one array: one by one they
// were a third of what an answer allocates.
type header struct {
	nats.Header
	values []string
}

const (
	// headersOfAnswer is the most that one has.
	headersOfAnswer = 26
	// textOfAnswer is room for what is made for nearly every answer: an id, a
	// source, two times and a hash.
	textOfAnswer = 320
	// putPrefix begins the subject under which answers are published.
	putPrefix = "fetch.put."
)

// Set sets a header to one value.
func (h *header) Set(key, value string) {
	h.values = append(h.values, value)
	n := len(h.values)
	h.Header[key] = h.values[n-1 : n : n]
}

func (h *header) setIf(when bool, key, value string) {
	if when {
		h.Set(key, value)
	}
}

// DecodeAnswer reads an answer as stored or seen live. The identity is read
// from the subject, or, on a reply copy, from the headers as far as they tell.
func DecodeAnswer(subject string, h nats.Header, body []byte) (Answer, error) {
	a := Answer{
		Status:      Status(h.Get(headerStatus)),
		Final:       h.Get(headerFinal) == "true",
		Review:      h.Get(headerReview) == "true",
		Generation:  intOf(h, headerGeneration),
		Source:      Source(h.Get(headerSource)),
		HTTPStatus:  intOf(h, headerHTTPStatus),
		Calls:       intOf(h, headerCalls),
		Failures:    intOf(h, headerFailures),
		FetchedAt:   timeOf(h, headerFetchedAt),
		Age:         time.Duration(intOf(h, headerAge)) * time.Second,
		Latency:     time.Duration(intOf(h, headerLatency)) * time.Millisecond,
		Redacted:    h.Get(headerRedacted) == "true",
		Time:        timeOf(h, headerEventTime),
		Digest:      h.Get(headerDigest),
		Reason:      Reason(h.Get(headerReason)),
		RetryAt:     timeOf(h, headerRetryAt),
		SHA256:      cmp.Or(h.Get(headerSHA256), h.Get(headerBodySHA256)),
		ContentType: h.Get(headerContentType),
	}
	a.NextLoop = h.Get(headerNextLoop) == "true"
	if next := h.Get(headerNext); next != "" {
		a.Next = json.RawMessage(next)
	}
	if i, ok := resultOf(subject); ok {
		a.Identity = i
	} else {
		a.Identity.ID = h.Get(headerRequestID)
		source, _ := strings.CutPrefix(h.Get(headerEventSource), "/fetch/")
		a.Identity.Provider, a.Identity.Operation, _ = strings.Cut(source, "/")
	}
	switch a.Status {
	case StatusOK, StatusStale:
		if prefix := h.Get(headerBodyPrefix); prefix != "" {
			a.Claim = &Claim{
				Prefix: prefix, Parts: intOf(h, headerBodyParts),
				Bytes: int64(intOf(h, headerBodyBytes)), SHA256: a.SHA256,
			}
			return a, nil
		}
		a.Body = body
	case StatusWaiting, StatusFailed:
		a.Problem = new(Problem)
		if err := json.Unmarshal(body, a.Problem); err != nil {
			return a, fmt.Errorf("answer %s: problem: %w", subject, err)
		}
		if !a.Final {
			a.Reason, a.RetryAt = a.waitsFor()
		}
	default:
		return a, fmt.Errorf("answer %s: status %q is not known", subject, a.Status)
	}
	return a, nil
}

// garbled says that what came in the answer itself is not what its sum says. A
// message without its data cannot be judged.
func (a Answer) garbled(data []byte) bool {
	return a.SHA256 != "" && a.Claim == nil && len(data) > 0 && sumOf(data) != a.SHA256
}

func intOf(h nats.Header, key string) int {
	n, _ := strconv.Atoi(h.Get(key))
	return n
}

func timeOf(h nats.Header, key string) time.Time {
	t, _ := time.Parse(time.RFC3339, h.Get(key))
	return t
}
