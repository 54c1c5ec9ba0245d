//go:build race

package open

// patience is how much longer all takes with the race detector on.
const patience = 4
