package dir

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"mimeo/internal/imaging/store/keys"
)

// What does not fit between a store and Options.Key; keys.ErrWrong is the third.
var (
	ErrNoKey = errors.New("the store is encrypted, and no key was given")
	ErrPlain = errors.New("the store is not encrypted, and a key was given")
)

// KeyHint says what to do about an error of Open that is about the key, and nothing about others.
func KeyHint(err error) string {
	switch {
	case errors.Is(err, ErrNoKey):
		return "name the file with its key or passphrase: --store-key FILE, or store_key in the configuration of mimeod"
	case errors.Is(err, keys.ErrWrong):
		return "take the key file or passphrase that the store was made with, or one that was added by \"mimeo-agent store key add\""
	case errors.Is(err, ErrPlain):
		return "leave the key out, or copy the store to a new one that is encrypted: mimeo-agent store copy --to PLACE --to-key FILE"
	}
	return ""
}

const maxKey = 1 << 14 // bytes of a file in keysDir

func keyName(id string) string { return keysDir + "/" + id + ".json" }

// unlock opens the store's key.
func (s *Store) unlock(by keys.Secret) error {
	if by.IsZero() {
		return ErrNoKey
	}
	all, err := s.sealedKeys()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("the store is encrypted, and its key is not in %s: put the files there that it had", s.path(keysDir))
	}
	err = keys.ErrWrong
	for _, k := range all {
		key, kerr := k.Open(by, k.id)
		if kerr == nil {
			s.use(key)
			return nil
		}
		if !errors.Is(kerr, keys.ErrWrong) {
			err = fmt.Errorf("%s: %w", s.path(keyName(k.id)), kerr)
		}
	}
	return err
}

func (s *Store) use(key *keys.Key) { s.key, s.form = key, form{key.Records} }

// sealedKey is a file of keysDir.
type sealedKey struct {
	id string
	*keys.Sealed
}

// sealedKeys returns the files of keysDir that are this store's.
func (s *Store) sealedKeys() ([]sealedKey, error) {
	list, err := s.fs.ReadDir(keysDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all []sealedKey
	for _, e := range list {
		id, ok := strings.CutSuffix(e.Name, ".json")
		if !ok || !keys.ValidID(id) {
			continue
		}
		b, err := s.readFile(keyName(id), maxKey)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			return nil, err
		}
		k, err := keys.ParseSealed(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.path(keyName(id)), err)
		}
		if k.Store == hex.EncodeToString(s.id[:]) {
			all = append(all, sealedKey{id, k})
		}
	}
	return all, nil
}

// newKey makes the key of a new store.
func (s *Store) newKey(by keys.Secret) error {
	key, err := keys.New()
	if err != nil {
		return err
	}
	if err := s.fs.Mkdir(keysDir); err != nil {
		return err
	}
	if err := s.fs.SyncDir("."); err != nil {
		return err
	}
	s.use(key)
	_, err = s.writeKey(by)
	return err
}

func (s *Store) writeKey(by keys.Secret) (string, error) {
	id, err := keys.NewID()
	if err != nil {
		return "", err
	}
	b, err := s.key.Seal(by, hex.EncodeToString(s.id[:]), id)
	if err != nil {
		return "", err
	}
	return id, s.writeFile(keyName(id), b, false)
}

// KeyInfo says who can open an encrypted store.
type KeyInfo struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // "key" or "passphrase"
	Created time.Time `json:"created"`
	Used    bool      `json:"used"` // the store was opened with it
}

// Encrypted tells whether the store is.
func (s *Store) Encrypted() bool { return s.key != nil }

// SealCopies returns what seals copies of chunks elsewhere, nil where the store is not encrypted.
func (s *Store) SealCopies() (*keys.Cache, error) {
	if s.key == nil {
		return nil, nil
	}
	c, err := s.key.Cache()
	return &c, err
}

// Keys lists what opens the store; by is what the store was opened with.
func (s *Store) Keys(ctx context.Context, by keys.Secret) ([]KeyInfo, error) {
	all, err := s.sealedKeys()
	if err != nil {
		return nil, err
	}
	list := make([]KeyInfo, 0, len(all))
	for _, k := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		_, err := k.Open(by, k.id)
		list = append(list, KeyInfo{ID: k.id, Kind: k.Kind, Created: k.Created, Used: err == nil})
	}
	return list, nil
}

// AddKey lets another key file or passphrase open the store, too, and returns the name of that.
func (s *Store) AddKey(ctx context.Context, by keys.Secret) (string, error) {
	if err := s.writable(ctx); err != nil {
		return "", err
	}
	if s.key == nil {
		return "", ErrPlain
	}
	return s.writeKey(by)
}

// RemoveKey takes a name that AddKey returned, or Keys. The last one cannot be removed: nobody could open the store.
// Whoever has kept the file, and what it was sealed by, still has the store's key.
func (s *Store) RemoveKey(ctx context.Context, id string) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	all, err := s.sealedKeys()
	if err != nil {
		return err
	}
	there := false
	for _, k := range all {
		there = there || k.id == id
	}
	switch {
	case !there:
		return fmt.Errorf("key %.40q: %w", id, fs.ErrNotExist)
	case len(all) == 1:
		return fmt.Errorf("key %s is the last one: without it nobody could open the store", id)
	}
	if err := s.fs.Remove(keyName(id)); err != nil {
		return err
	}
	return s.fs.SyncDir(keysDir)
}

// sealName is what a file is sealed under: docs/formats/store.md, "Sealed files".
func sealName(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

// readSealed is readFile for what an encrypted store has sealed. The limit is that of the content.
func (s *Store) readSealed(name string, limit int64) ([]byte, error) {
	if s.key == nil {
		return s.readFile(name, limit)
	}
	b, err := s.readFile(name, limit+int64(keys.Over))
	if err != nil {
		return nil, err
	}
	return s.key.OpenFile(sealName(name), b)
}

// writeSealed is writeFile for what an encrypted store seals.
func (s *Store) writeSealed(name string, b []byte, replace bool) error {
	if s.key != nil {
		var err error
		if b, err = s.key.SealFile(sealName(name), b); err != nil {
			return err
		}
	}
	return s.writeFile(name, b, replace)
}
