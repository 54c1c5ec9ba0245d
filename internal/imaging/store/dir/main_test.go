package dir

import (
	"fmt"
	"os"
	"testing"

	"mimeo/internal/imaging/store/keys"
)

// secret is what openAs gives to stores.
var secret keys.Secret

// openAs is Open, of an encrypted store where secret is set.
func openAs(path string, o Options) (*Store, error) {
	if o.Key.IsZero() {
		o.Key = secret
	}
	return Open(path, o)
}

// TestMain runs all tests twice: with plain stores and with encrypted ones.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		f, err := os.CreateTemp("", "mimeo-key-")
		if err == nil {
			os.Remove(f.Name())
			err = keys.NewFile(f.Name())
		}
		if err == nil {
			secret, err = keys.Read(f.Name())
			os.Remove(f.Name())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("once more, with encrypted stores")
		code = m.Run()
	}
	os.Exit(code)
}
