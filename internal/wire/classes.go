package wire

// Class is how one attempt ended, the Fetch-Error-Class header of a dead
// letter. The first six are what a provider's answer is classified as; the
// others are reasons to park or bury a request without a call.
type Class string

// Every class.
const (
	ClassOK           Class = "ok"           // the body is an answer
	ClassTransient    Class = "transient"    // network, timeout, 408, 5xx, unreadable body: retried, counts as a failure
	ClassThrottled    Class = "throttled"    // rate or bandwidth limit of the provider: waits, counts no failure
	ClassUnauthorized Class = "unauthorized" // the key is refused: the service's fault, waits, counts no failure
	ClassPending      Class = "pending"      // the provider is still computing the answer: asked again, counts no failure
	ClassPermanent    Class = "permanent"    // the provider will say the same again: answered, never retried
	ClassCircuitOpen  Class = "circuit_open" // parked: the circuit is open
	ClassPaused       Class = "paused"       // parked: an operator paused the provider
	ClassQuota        Class = "quota"        // parked: no permit for more than 90 s
	ClassPoison       Class = "poison"       // it kills workers
	ClassExpired      Class = "expired"      // past the maximum life of a request
)

// AnswerClasses are what a provider's answer is classified as, and what a rule
// of its sheet may say.
func AnswerClasses() []Class {
	return []Class{ClassOK, ClassTransient, ClassThrottled, ClassUnauthorized, ClassPending, ClassPermanent}
}

// LetterClasses are those that a letter or a review item may be of.
func LetterClasses() []Class {
	return []Class{
		ClassTransient, ClassThrottled, ClassUnauthorized, ClassPermanent, ClassPending,
		ClassCircuitOpen, ClassPaused, ClassQuota, ClassPoison, ClassExpired,
	}
}
