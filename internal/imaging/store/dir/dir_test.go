package dir

import "testing"

func TestSmoke(t *testing.T) {
	s, err := Open(t.TempDir()+"/x", Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
