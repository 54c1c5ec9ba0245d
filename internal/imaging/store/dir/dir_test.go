package dir

import (
	"testing"

	"mimeo/internal/imaging/store/storetest"
)

func open(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := openAs(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	for name, size := range map[string]int64{"OnePack": 0, "ManyPacks": 10_000} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Pair {
				s := open(t, t.TempDir()+"/store", Options{Create: true, PackSize: size})
				return storetest.Pair{Writer: s, Publisher: s}
			})
		})
	}
}
