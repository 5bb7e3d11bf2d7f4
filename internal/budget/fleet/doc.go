// Package fleet is for those who look at a fleet and give it orders, and call
// no provider themselves: the View of all that is shared, an operator's orders
// (Control), and which workers live (Worker).
package fleet
