package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNotEmpty says that something lies in the state folder.
var ErrNotEmpty = errors.New("the state folder is not empty")

// ConfigName is what the configuration of a backup is called in a restored state folder.
const ConfigName = "mimeod.yaml.restored"

// Restore makes a state folder of a backup. The folder must be empty or missing; the backup is read twice, so that nothing is made of
// one that is damaged. What is made belongs to whom the folder belongs. After an error the folder is as it was.
func Restore(file io.ReadSeeker, state string) (head Head, err error) {
	if head, err = Check(file); err != nil {
		return head, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return head, err
	}
	there, err := os.ReadDir(state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return head, err
	}
	if len(there) > 0 {
		return head, fmt.Errorf("%w: %s has %s", ErrNotEmpty, state, there[0].Name())
	}
	made := err != nil
	if err := os.MkdirAll(state, 0o700); err != nil {
		return head, err
	}
	st, err := os.Stat(state)
	if err != nil {
		return head, err
	}
	root, err := os.OpenRoot(state)
	if err != nil {
		return head, err
	}
	defer func() {
		err = errors.Join(err, root.Close())
		if err == nil {
			return
		}
		if list, e := os.ReadDir(state); e == nil {
			for _, d := range list {
				os.RemoveAll(filepath.Join(state, d.Name()))
			}
		}
		if made {
			os.Remove(state)
		}
	}()
	owner, _ := st.Sys().(*syscall.Stat_t)
	own := func(name string) error {
		if owner == nil || os.Geteuid() != 0 {
			return nil
		}
		return root.Lchown(name, int(owner.Uid), int(owner.Gid))
	}
	dirs := map[string]bool{".": true}
	var makeDir func(string) error
	makeDir = func(dir string) error {
		if dirs[dir] {
			return nil
		}
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		dirs[dir] = true
		return errors.Join(root.Mkdir(dir, 0o755), own(dir))
	}
	head, err = walk(file, func(name string, mode fs.FileMode, r io.Reader) error {
		to, ok := strings.CutPrefix(name, stateDir)
		if name == confMember {
			to, ok = ConfigName, true
		}
		if !ok {
			return nil // of a later version that this one has no place for
		}
		if err := makeDir(filepath.Dir(to)); err != nil {
			return err
		}
		f, err := root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close(), own(to))
	})
	return head, err
}
