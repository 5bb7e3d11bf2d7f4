package wait

// Signal tells whoever reads c to look again. It never waits: c has room for
// one signal, and several may be one.
func Signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
