package providers

import "fmt"

// RightsError is what Rights.Check returns. Nothing was spent.
type RightsError struct {
	Agent, Provider, Operation, Right string
	Tier                              string // the tier that forbids it to everyone; "" if the agent does not hold it
}

func (e *RightsError) Error() string {
	if e.Tier != "" {
		return fmt.Sprintf("%s forbids %q to everyone on the %s tier", e.Provider, e.Right, e.Tier)
	}
	return fmt.Sprintf("agent %q does not hold the right %q, needed for %s %s", e.Agent, e.Right, e.Provider, e.Operation)
}
