package providers

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/catalogue"
	"fetchworker/internal/providers/sheet"
)

// Set is all providers that are known, with and without a key, and the
// agents' rights.
type Set struct {
	Rights    *Rights  // nil without FETCH_RIGHTS
	Warnings  []string // what is allowed and yet hardly meant, each naming its variable
	providers map[string]*Provider
}

// Option changes what Load makes.
type Option func(*loader)

// WithDial makes every connection with dial instead of the network.
func WithDial(dial DialFunc) Option { return func(l *loader) { l.dial = dial } }

type loader struct {
	getenv   func(string) string
	dial     DialFunc
	errs     []error
	warnings []string
	wrong    []string // providers of which the catalogue's mistakes are told
}

// Load reads the built-in data sheets, then the catalogue that FETCH_CATALOG
// names, then the environment, the later over the earlier; and the profiles
// that FETCH_RIGHTS names. All mistakes are reported together, each naming
// its variable, or its file and line.
//
// With <PREFIX> the provider's (FMP, POLYGON, FRED, NEWS; a catalogue
// provider's name in capitals), all optional:
//
//	<PREFIX>_API_KEY              the key; without it the provider is known but not configured
//	<PREFIX>_API_KEY_FILE         a file with the key instead; one that changes is used for the next call
//	<PREFIX>_BASE_URL             http or https
//	<PREFIX>_TIMEOUT_SECONDS      of one call, fractions allowed
//	<PREFIX>_BANDWIDTH_LIMIT_GB   in a UTC month, GB = 1024³, fractions allowed; 0 = none
//	<PREFIX>_REQUESTS_PER_MINUTE  0 = unlimited, no windows at all; see perMinute
//	<PREFIX>_TIER                 where the provider has tiers
func Load(getenv func(string) string, options ...Option) (*Set, error) {
	l := &loader{getenv: getenv}
	for _, option := range options {
		option(l)
	}
	set := &Set{providers: map[string]*Provider{}}
	specs := l.specs()
	set.Rights = l.rights()
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		spec := specs[name]
		l.environment(&spec)
		keys := l.keys(&spec)
		if slices.Contains(l.wrong, name) {
			continue // what follows from those is none of its own
		}
		p, err := newProvider(spec, keys, l.dial)
		if err != nil {
			l.fail("%s: %w", name, err)
			continue
		}
		set.providers[name] = p
	}
	l.quotas(set)
	if err := errors.Join(l.errs...); err != nil {
		return nil, err
	}
	set.Warnings = l.warnings
	return set, nil
}

// quotas checks that those who share one have the same limits in force: the
// environment may have changed those of one.
func (l *loader) quotas(set *Set) {
	first, many := map[string]*Provider{}, map[string]bool{}
	for _, p := range set.All() {
		other := first[p.Quota]
		switch {
		case p.Quota == "":
		case other == nil:
			first[p.Quota] = p
		case p.Together() != other.Together() || p.AtOnce != other.AtOnce:
			l.fail("%s and %s share the quota %s: expected the same limits in force, got %s and %s (%s_REQUESTS_PER_MINUTE changes those of one only)",
				other.Name, p.Name, p.Quota, other.Together(), p.Together(), p.EnvPrefix)
		default:
			many[p.Quota] = true
		}
	}
	for _, quota := range slices.Sorted(maps.Keys(first)) {
		if !many[quota] && len(l.wrong) == 0 {
			l.warnings = append(l.warnings, fmt.Sprintf("%s: no other provider here has the quota %s: it is shared only with workers whose catalogue has one", first[quota].Name, quota))
		}
	}
}

// specs are the built-in sheets with the catalogue over them.
func (l *loader) specs() map[string]sheet.Spec {
	file, content := l.file("FETCH_CATALOG")
	if content == nil {
		return l.builtins(nil)
	}
	specs, wrong, err := catalogue.Read(file, content, l.builtins)
	l.wrong = wrong
	if err != nil {
		l.errs = append(l.errs, err)
	}
	return specs
}

// rights are the profiles, nil if there is no file of them.
func (l *loader) rights() *Rights {
	file, content := l.file("FETCH_RIGHTS")
	if content == nil {
		return nil
	}
	agents, others, err := catalogue.Rights(file, content)
	if err != nil {
		l.errs = append(l.errs, err)
	}
	return &Rights{Agents: agents, Default: others}
}

// file reads the file a variable names; no content means that it names none,
// or one that cannot be read, which is reported.
func (l *loader) file(variable string) (name string, content []byte) {
	name = l.getenv(variable)
	if name == "" {
		return "", nil
	}
	content, err := os.ReadFile(name) //nolint:gosec // the operator says which file
	if err != nil {
		l.fail("%s: %w", variable, err)
		return name, nil
	}
	return name, append(content, '\n') // an empty file is a file, too
}

// Configured are the providers that can be called, by name.
func (s *Set) Configured() []*Provider {
	return slices.DeleteFunc(s.All(), func(p *Provider) bool { return !p.Configured() })
}

// All are the providers that are known, by name.
func (s *Set) All() []*Provider {
	return slices.SortedFunc(maps.Values(s.providers), func(a, b *Provider) int { return strings.Compare(a.Name, b.Name) })
}

// Provider is a provider by its name.
func (s *Set) Provider(name string) (p *Provider, ok bool) {
	p, ok = s.providers[name]
	return p, ok
}

// Known reports whether there is a provider of that name, with or without a key.
func (s *Set) Known(name string) bool {
	_, ok := s.providers[name]
	return ok
}

// Close releases all idle connections.
func (s *Set) Close() {
	for _, p := range s.providers {
		p.Close()
	}
}

func (l *loader) fail(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// builtins are the built-in sheets, of the generation that the base URL in
// force selects: the environment's, else the catalogue's, else the sheet's.
func (l *loader) builtins(catalogueBase map[string]string) map[string]sheet.Spec {
	specs := map[string]sheet.Spec{}
	for name, sheet := range builtins {
		spec := sheet("")
		base := l.getenv(spec.EnvPrefix + "_BASE_URL")
		if base == "" {
			base = catalogueBase[name]
		}
		specs[name] = sheet(base)
	}
	return specs
}

// keys are the secrets of a spec, each as its variable holds it now, or the
// file that <VARIABLE>_FILE names. All are read once, to tell what is wrong
// with them at the start.
func (l *loader) keys(spec *sheet.Spec) call.Keys {
	files := map[string]*keyFile{}
	values := map[string]string{}
	for _, variable := range spec.AllVariables() {
		value, file := l.getenv(variable), l.getenv(variable+"_FILE")
		switch {
		case value != "" && file != "":
			l.fail("%s and %s_FILE: expected one of them", variable, variable)
		case file != "":
			f := &keyFile{name: file}
			files[variable] = f
			content, err := os.ReadFile(file) //nolint:gosec // the operator says which file
			if err != nil {
				l.fail("%s_FILE: %w", variable, err)
			}
			value = f.take(content)
			l.judge(variable+"_FILE", strings.TrimSpace(string(content)))
		default:
			value = strings.TrimSpace(value)
			l.judge(variable, value)
		}
		values[variable] = value
	}
	return func(variable string) string {
		if f := files[variable]; f != nil {
			return f.now()
		}
		return values[variable]
	}
}

// judge tells of a key that no API can have given out.
func (l *loader) judge(variable, key string) {
	if strings.ContainsFunc(key, unicode.IsControl) {
		l.fail("%s: expected a key without line breaks and control characters", variable)
	}
	if len(key) > 1 && key[0] == key[len(key)-1] && strings.Contains("\"'`", key[:1]) {
		l.warnings = append(l.warnings, fmt.Sprintf("%s: the key begins and ends with %s, which is sent as a part of it: an environment file wants no quotes", variable, key[:1]))
	}
}

// keyFile is a key in a file, which may be exchanged at any time.
type keyFile struct {
	name string
	mu   sync.Mutex
	last string
}

const maxKeyFile = 64 << 10

// now is the key the file has now. While it is missing or being written, the
// key that it had.
func (f *keyFile) now() string {
	file, err := os.Open(f.name)
	if err != nil {
		return f.take(nil)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	_ = file.Close() // it was only read
	if err != nil {
		return f.take(nil)
	}
	return f.take(content)
}

// take keeps a key that could be one. It often ends in a newline, which no
// header may hold.
func (f *keyFile) take(content []byte) string {
	key := strings.TrimSpace(string(content))
	f.mu.Lock()
	defer f.mu.Unlock()
	if key != "" && !strings.ContainsFunc(key, unicode.IsControl) {
		f.last = key
	}
	return f.last
}

// environment applies a provider's variables to its spec.
func (l *loader) environment(spec *sheet.Spec) {
	read := func(suffix string, use func(value string) error) {
		name := spec.EnvPrefix + suffix
		if value := strings.TrimSpace(l.getenv(name)); value != "" {
			if err := use(value); err != nil {
				l.fail("%s: %w", name, err)
			}
		}
	}
	read("_BASE_URL", func(value string) error {
		_, err := sheet.ParseBase(value)
		spec.BaseURL = value
		return err
	})
	read("_TIMEOUT_SECONDS", func(value string) error {
		seconds, err := positive(value)
		if err != nil || seconds == 0 || seconds > 3600 {
			return fmt.Errorf("expected seconds above 0 and up to 3600, fractions allowed, got %q", value)
		}
		spec.Timeout = time.Duration(seconds * float64(time.Second))
		return nil
	})
	read("_BANDWIDTH_LIMIT_GB", func(value string) error {
		gigabytes, err := positive(value)
		if err != nil || gigabytes > 1e6 {
			return fmt.Errorf("expected GB (1024³ bytes) a month, 0 for none, got %q", value)
		}
		spec.BytesPerMonth = int64(gigabytes * gb)
		return nil
	})
	read("_REQUESTS_PER_MINUTE", func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > 1e6 {
			return fmt.Errorf("expected a whole number of calls, 0 for unlimited, got %q", value)
		}
		spec.Limits = perMinute(spec.Limits, n)
		return nil
	})
	if len(spec.Tiers) > 0 {
		read("_TIER", func(value string) error {
			if _, ok := spec.Tiers[value]; !ok {
				return fmt.Errorf("expected one of %s, got %q", strings.Join(slices.Sorted(maps.Keys(spec.Tiers)), ", "), value)
			}
			spec.Tier = value
			return nil
		})
	}
}

// positive reads a number from 0.
func positive(value string) (float64, error) {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0, strconv.ErrSyntax
	}
	return n, nil
}

// perMinute replaces the minute's window of a provider. Longer windows are
// the provider's own and stay. A shorter one stays too, unless it would not
// let n a minute through: then it is raised to its share of them. 0 is
// unlimited: no window is left, those of a tier included.
func perMinute(limits ledger.Limits, n int) ledger.Limits {
	if n == 0 {
		return nil
	}
	changed := ledger.Limits{{N: n, Per: time.Minute}}
	for _, w := range limits {
		if w.Per == time.Minute {
			continue
		}
		if w.Per < time.Minute {
			share := int(math.Ceil(float64(n) * w.Per.Seconds() / 60))
			w.N = max(w.N, share)
		}
		changed = append(changed, w)
	}
	return changed
}
