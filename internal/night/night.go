// Package night tells tests what is left to build/night: what goes once more over ground that others cover, by another
// firmware, release or size, and takes long. ./test must be done within 45 minutes on two processors.
package night

import (
	"os"
	"testing"
)

// On tells whether build/night runs.
func On() bool { return os.Getenv("MIMEO_NIGHT") != "" }

// Only leaves a test to build/night.
func Only(t testing.TB) {
	t.Helper()
	if !On() {
		t.Skip("runs by night: build/night")
	}
}
