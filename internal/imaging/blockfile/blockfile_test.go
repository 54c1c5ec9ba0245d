package blockfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// memory is bytes in memory that fail where told to.
type memory struct {
	mu   sync.Mutex
	b    []byte
	fail error
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	n := copy(b, m.b[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(m.b[off:], b), nil
}

// TestTools has programs of the system make a filesystem in memory, grow it, and judge it.
func TestTools(t *testing.T) {
	m := &memory{b: make([]byte, 64<<20)}
	f, err := Start(m, int64(len(m.b)))
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run("mke2fs", "-q", "-F", "-d", "/etc/default", f.Path, "16M")
	run("resize2fs", f.Path)
	run("e2fsck", "-fn", f.Path)
	run("resize2fs", f.Path, "8M")
	// A loop device on it, as for filesystems that grow while they are mounted.
	run("sh", "-euc", `dev=$(losetup -f --show "$1"); trap 'losetup -d $dev' EXIT; e2fsck -fn $dev`, "sh", f.Path)
	if f.Err() != nil {
		t.Error(f.Err())
	}
	m.mu.Lock()
	m.fail = errors.New("the disk is on fire")
	m.mu.Unlock()
	if _, err := os.ReadFile(f.Path); err == nil || f.Err() == nil || !strings.Contains(f.Err().Error(), "on fire") {
		t.Errorf("a read that fails: %v, %v", err, f.Err())
	}
	dir := filepath.Dir(f.Path)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its folder is still there: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, bytes.Clone(m.b), 0o600); err != nil {
		t.Fatal(err)
	}
	run("e2fsck", "-fn", copied)
}
