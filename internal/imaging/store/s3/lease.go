package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/store"
)

// leaseTerm is how long a lock counts that is not renewed: long enough for a service that is away for a minute.
const leaseTerm = 2 * time.Minute

// leaseFile is the content of the object that is the lock.
type leaseFile struct {
	Version int    `json:"version"` // 1
	Owner   string `json:"owner"`   // who has the same local folder
	Process string `json:"process"` // differs for each that had the lock
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Term    int    `json:"term"`  // seconds
	Count   int    `json:"count"` // how often it was written: no two have the same ETag
}

// lease is the lock of a store, as its holder has it.
type lease struct {
	f      *files
	name   string
	folder *os.File // locked, so that no other process uses it
	term   time.Duration
	cancel context.CancelFunc
	done   sync.WaitGroup

	own leaseFile // Count is for who writes it: first acquire, then renew

	mu      sync.Mutex
	etag    string
	renewed time.Time // when the last request was sent that renewed it
	lost    error
}

// acquire takes the lock, and renews it until it is closed.
func (f *files) acquire(name string) (*lease, error) {
	folder, err := lockFolder(f.state)
	if err != nil {
		return nil, err
	}
	l := &lease{f: f, name: name, folder: folder, term: f.term, renewed: time.Now()}
	if l.own.Owner, err = owner(f.state); err == nil {
		l.own.Process, err = word()
	}
	if err == nil {
		l.own.Host, _ = os.Hostname() // for people only
		l.own.Version, l.own.PID, l.own.Term = 1, os.Getpid(), int(max(f.term, time.Second)/time.Second)
		l.etag, err = l.write(condition{free: true})
	}
	if errors.Is(err, fs.ErrExist) {
		err = l.takeOver()
	}
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	ctx, cancel := context.WithCancel(f.ctx)
	l.cancel = cancel
	l.done.Go(func() { l.renew(ctx) })
	return l, nil
}

// word returns 32 random hexadecimal digits.
func word() (string, error) {
	var r [16]byte
	_, err := rand.Read(r[:])
	return hex.EncodeToString(r[:]), err
}

// lockFolder sees to it that one process at a time writes by way of a folder.
func lockFolder(path string) (*os.File, error) {
	h, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(h.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		h.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = store.ErrLocked
		}
		return nil, fmt.Errorf("%s: %w", h.Name(), err)
	}
	return h, nil
}

// owner returns the word by which who uses a folder knows locks of an earlier process that used it, and is gone.
func owner(path string) (string, error) {
	name := filepath.Join(path, "owner")
	if b, err := os.ReadFile(name); err == nil && len(b) == 32 {
		return string(b), nil
	}
	w, err := word()
	if err != nil {
		return "", err
	}
	return w, os.WriteFile(name, []byte(w), 0o600)
}

// write writes the lock and returns its ETag.
func (l *lease) write(must condition) (string, error) {
	l.own.Count++
	b, err := json.Marshal(l.own)
	if err != nil {
		return "", err
	}
	b = append(b, '\n')
	return l.f.put(l.name, bytes.NewReader(b), int64(len(b)), must)
}

// takeOver replaces a lock whose holder did not renew it in time.
func (l *lease) takeOver() error {
	f := l.f
	info, err := f.stat(l.name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s was given back this moment: %w", f.place(l.name), store.ErrLocked)
		}
		return err
	}
	b, etag, err := f.get(l.name, 1<<16)
	if err != nil {
		return err
	}
	var old leaseFile
	if err := json.Unmarshal(b, &old); err != nil || old.Version != 1 || old.Term < 1 || old.Term > 86400 || etag != info.ETag {
		if etag != info.ETag {
			return fmt.Errorf("%s: %w", f.place(l.name), store.ErrLocked)
		}
		return fmt.Errorf("%s is no lock of a store", f.place(l.name))
	}
	term := time.Duration(old.Term) * time.Second
	if age := f.now().Sub(info.LastModified); old.Owner != l.own.Owner && age <= term+time.Second { // both are whole seconds
		return fmt.Errorf("%s, of %s, process %d, renewed %s ago: %w", f.place(l.name), printable(old.Host), old.PID, max(0, age).Round(time.Second), store.ErrLocked)
	}
	l.renewed = time.Now()
	if l.etag, err = l.write(condition{etag: etag}); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", f.place(l.name), store.ErrLocked)
	}
	return err
}

// printable makes text of the bucket fit for a line on a terminal.
func printable(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

// renew writes the lock anew until ctx is done, or somebody else has it.
func (l *lease) renew(ctx context.Context) {
	t := time.NewTicker(l.term / 6)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		l.mu.Lock()
		etag := l.etag
		l.mu.Unlock()
		sent := time.Now()
		etag, err := l.write(condition{etag: etag})
		l.mu.Lock()
		switch {
		case err == nil:
			l.etag, l.renewed = etag, sent
		case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
			l.lost = fmt.Errorf("%s: %w", l.f.place(l.name), ErrLeaseLost)
		}
		lost := l.lost != nil
		l.mu.Unlock()
		if lost {
			return
		}
	}
}

// holds returns an error where somebody else may have the lock, or have it before a request is done that begins now.
func (l *lease) holds() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	// The wall clock also counts the time that a machine was suspended.
	if age := max(time.Since(l.renewed), time.Now().Round(0).Sub(l.renewed.Round(0))); age > l.term/2 {
		return fmt.Errorf("%s could not be renewed for %s: nothing is written until it is", l.f.place(l.name), age.Round(time.Second))
	}
	return nil
}

// Close ends the renewing and gives the lock back, if it is still ours.
func (l *lease) Close() error {
	l.cancel()
	l.done.Wait()
	var err error
	if l.holds() == nil { // else whoever has it keeps it; an old one ends by itself
		err = l.f.remove(l.name)
	}
	return errors.Join(err, l.folder.Close())
}
