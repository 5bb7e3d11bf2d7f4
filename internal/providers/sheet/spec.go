package sheet

import (
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/wire"
)

// Spec is the data sheet of one upstream API. Go data sheets and the YAML
// catalogue fill the same struct, and everything that differs between APIs
// is in it.
type Spec struct {
	Name      string // [a-z0-9_-]{1,32}, the provider's token in subjects
	BaseURL   string // http or https, with a path perhaps, without query, fragment or user
	EnvPrefix string // FMP reads FMP_API_KEY, FMP_BASE_URL and so on
	KeyEnv    string // variable that holds the key; "" means <EnvPrefix>_API_KEY

	Auth      []Auth            // all of them are sent
	Secrets   map[string]string // further secrets: the variables that hold them, by the names they have in ${name}
	KeyParams []string          // every query parameter the API takes a key in: get refuses them, in any case
	Query     map[string]string // sent with every call unless the call says otherwise; ${name} is a secret
	Header    map[string]string // sent with every call; ${name} is a secret

	Limits        ledger.Limits            // windows of calls; none means unlimited
	Groups        map[string]ledger.Limits // of operations that share limits of their own, besides the provider's
	Quota         string                   // a name that providers have in common whose calls count together, in the limits that each of them has; "": it is alone
	AtOnce        int64                    // calls that the whole fleet may make at once; 0: any number
	RateHeaders   *RateHeaders             // where the API tells its own count; nil: where most do
	Tier          string                   // which of Tiers is in force; "" when there are none
	Tiers         map[string]Tier          // plans of the API that differ in more than numbers
	BytesPerMonth int64                    // bytes on the wire in a UTC month; 0 means no budget
	Timeout       time.Duration            // of one whole call, from dialling to the last byte
	Fresh         time.Duration            // for operations that give none; see Operation.Fresh
	Stale         time.Duration            // for operations that give none; see Operation.Stale

	Rights     []string // needed for any operation, besides the operation's own
	Operations map[string]*Operation
	GetPaths   []GetPath // where get differs from the rest of the API
	GetPaging  *Paging   // how get finds the next page; nil when it cannot know

	// Own are the rules by which the API's own errors are known, without a
	// class: a 4xx that none of them matches was said by something in between.
	// None means that every 4xx that is no HTML page is its own.
	Own        []Rule
	ErrorRules []Rule   // tried in order before the status decides
	ErrorText  []string // JSON pointers to the text of an error, the first that exists counts
	Notice     string   // a notice that the API's terms want shown
}

// RateHeaders are the headers in which an API tells its own count.
type RateHeaders struct {
	Off                     bool          // it tells nothing that is to be believed
	Limit, Remaining, Reset string        // names; an empty one is the usual one
	Window                  time.Duration // the window they are about; 0: the one whose calls are the limit told
}

// Tier is a plan of an API that adds limits or forbids uses.
type Tier struct {
	Limits  ledger.Limits // added to the provider's
	Forbids []string      // rights that nobody has on this tier, whatever a profile says
}

// Format is what an operation's body must be to count as an answer.
type Format string

// The formats.
const (
	FormatJSON Format = "json" // one JSON object or array; the default
	FormatCSV  Format = "csv"  // a table, at least a header line
	FormatAny  Format = "any"  // what the Content-Type says; never HTML or nothing

	FormatValue  Format = "value"  // any JSON value, a number or a text as well
	FormatText   Format = "text"   // text in UTF-8
	FormatNDJSON Format = "ndjson" // a JSON value a line
	FormatImage  Format = "image"  // an image by its first bytes, or by its type
	FormatBinary Format = "binary" // any bytes but a page
)

// Operation is one thing that can be asked of an API.
type Operation struct {
	Name string
	Path string // template below the base URL: /quote/{symbol}; parameters not named in it go into the query

	// Method is GET, or POST for a read that needs a body: then ReadsOnly says
	// that asking twice changes nothing.
	Method    string
	ReadsOnly bool
	Body      BodyKind // of a POST
	Template  string   // of a POST: the JSON that parameters are placed in; "" is {}

	Header  map[string]string // sent with every call of this operation; ${name} is a secret
	Timeout time.Duration     // of a call, if another than the provider's
	Columns []string          // of a csv: names that the header row must have

	Query     map[string]string // sent with every call of this operation
	Params    []Param
	AnyOf     []string   // at least one of these parameters must be given
	Exclusive [][]string // of the parameters in each list at most one may be given

	Limits ledger.Limits // of this operation's calls, besides the provider's
	Group  string        // one of the provider's groups, whose limits its calls count in
	Cost   int64         // how many calls it counts as, in all of them; 0 is 1

	Auth   []Auth   // if another than the provider's
	Rights []string // what the agent must hold
	Format Format   // "" means FormatJSON

	// Fresh is the age up to which a cached body answers a request that gives
	// no max_age; Stale the age up to which it may be shown while the
	// provider cannot be asked. 0 means the provider's; negative means never.
	Fresh, Stale time.Duration

	Paging *Paging // nil when there is one page
}

// BodyKind is how a POST's body is written.
type BodyKind string

// The kinds of bodies.
const (
	BodyJSON BodyKind = "json"
	BodyForm BodyKind = "form"
)

// ParamType is the type of a parameter.
type ParamType string

// The types. Numbers and booleans may be written as JSON strings too, so that
// a command line need not know types.
const (
	TypeString   ParamType = "string"     // Pattern, Max characters (512 if 0)
	TypeInt      ParamType = "int"        // Min, which may be negative, to Max (no upper bound if 0)
	TypeNumber   ParamType = "number"     // a decimal number from Low to High, its text is kept
	TypeBool     ParamType = "bool"       // true or false
	TypeEnum     ParamType = "enum"       // one of Enum
	TypeDate     ParamType = "date"       // YYYY-MM-DD
	TypeDateOrMS ParamType = "date_or_ms" // YYYY-MM-DD or Unix milliseconds
	TypeTime     ParamType = "time"       // YYYY-MM-DD, or with THH:MM:SS, or RFC 3339
	TypeCSV      ParamType = "csv"        // "A,B" or ["A","B"]: each item by Pattern or Enum, at most Max items (100 if 0)
)

// Param is one parameter of an operation.
type Param struct {
	Name     string
	Wire     string // its name in the query, if another
	Type     ParamType
	Required bool
	Default  string // sent when the request gives none
	Pattern  string // RE2, matched against the whole value
	Min, Max int64  // see the types
	Low      string // lower bound of a number, as a decimal number; "" is none
	High     string // upper bound; "0" also bounds an int
	At       string // JSON pointer of its place in a POST's body; "" is the query or the path

	Separator string // between the items of a csv, if another than a comma
	Repeat    bool   // a csv is sent as one query parameter an item
	Enum      []string
	Expected  string // what is expected, in words, where the type does not say it
}

// PagingKind is how an API hands out pages.
type PagingKind string

// The kinds of paging.
const (
	PageNumber PagingKind = "page"     // Param counts pages from First
	PageOffset PagingKind = "offset"   // Param counts items from 0
	PageNext   PagingKind = "next_url" // the body has the next page's URL at Next
	PageLink   PagingKind = "link"     // the header Link has it, with rel="next"
	PageToken  PagingKind = "token"    // the body has a value at Next that is sent back as Param
)

// Paging tells how the next page of an answer is asked for.
type Paging struct {
	Kind  PagingKind
	Param string // page, offset or cursor parameter
	First int64  // number of the first page
	Size  string // parameter with the items per page
	Each  int64  // items per page when that parameter is not given
	Items string // JSON pointer to the array of items, used where Total is ""; "" is the whole body
	Total string // JSON pointer to the total; "" if the API tells none: then a short page is the last
	Next  string // JSON pointer to the next page's URL
}

// GetPath says how get asks below a path prefix that is not like the rest of
// the API: another generation, or a product with its own auth.
type GetPath struct {
	Prefix   string // "/stable/"
	FromRoot bool   // the path starts at the host's root, not below the base URL's path
	Auth     []Auth // if another than the provider's
}

// Rule recognises one kind of answer by status and body. All parts that are
// given must match. Texts are compared without regard to case.
type Rule struct {
	Status []int // any of these statuses; a single digit stands for its class: 2 is 2xx; none is any
	// At are JSON pointers; the rule looks at the value of each that exists.
	// The empty pointer is the body itself as text (its first 4 KiB). Without
	// Equals, Prefix or Contains the rule asks only whether one exists.
	At       []string
	Header   map[string]string // headers that must be there, and be this, or have it among their words; "" asks only whether there is one
	Equals   []string
	Prefix   []string
	Contains []string

	Class   wire.Class       // what the answer is
	Code    fetchworker.Code // for ClassPermanent
	MinHold time.Duration    // ClassThrottled: the least time to hold the provider
	NoCache bool             // ClassOK: an answer that may be another in a minute
	Hint    string           // added to the detail: what the operator can do
}
