// Package keys makes the key that an encrypted store is sealed with, keeps it sealed by people's secrets, and seals with it.
// docs/formats/store.md, "Encrypted stores", is the format.
package keys

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Cipher names what seals, as format.json has it.
const Cipher = "xchacha20-poly1305"

const (
	size    = chacha20poly1305.KeySize // bytes of every key
	label   = "mimeo-store-key-v1"
	keyLine = "MIMEO-STORE-KEY-1 "
	minPass = 8       // bytes of a passphrase
	maxFile = 1 << 16 // bytes of a file with a secret
	version = 1       // of a Sealed

	fileMagic = "MIMEOSF1"
	// Over is by how many bytes a sealed file is longer than what it holds.
	Over = len(fileMagic) + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
)

// ErrWrong says that a secret opens none of the keys.
var ErrWrong = errors.New("this key or passphrase does not open the store")

// encoding is that of all bytes in text.
var encoding = base64.StdEncoding.Strict()

// Secret is what somebody opens a store with: the bytes of a key file, or a passphrase. It is not shown when it is printed.
type Secret struct {
	key  []byte // of a key file
	pass []byte
}

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.key == nil && s.pass == nil }

// Kind is "key" or "passphrase".
func (s Secret) Kind() string {
	if s.key != nil {
		return "key"
	}
	return "passphrase"
}

// String says what kind of secret it is, and not which.
func (s Secret) String() string { return "(hidden " + s.Kind() + ")" }

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Read reads a file with a secret: one that NewFile made, or one whose first line is a passphrase.
func Read(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxFile {
		return Secret{}, fmt.Errorf("%s holds more than %d bytes: it is no key and no passphrase", path, maxFile)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	s, err := Parse(string(bytes.TrimSuffix(line, []byte("\r"))))
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Parse reads the line of a key file, or takes it for a passphrase.
func Parse(line string) (Secret, error) {
	text, ok := strings.CutPrefix(line, keyLine)
	switch {
	case ok:
		key, err := encoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(key) != size {
			return Secret{}, errors.New("the key is cut off or changed")
		}
		return Secret{key: key}, nil
	case strings.HasPrefix(line, strings.TrimSpace(keyLine)):
		return Secret{}, errors.New("the key is cut off or changed")
	case len(line) < minPass:
		return Secret{}, fmt.Errorf("the first line is no key, and too short for a passphrase: at least %d bytes", minPass)
	}
	return Secret{pass: []byte(line)}, nil
}

// NewFile writes a new key to a file that is not there yet, durably, for its owner alone.
func NewFile(path string) (err error) {
	key := make([]byte, size)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	if _, err := f.WriteString(keyLine + encoding.EncodeToString(key) + "\n"); err != nil {
		return err
	}
	return f.Sync()
}

// Sealed is a store key, sealed by a secret: the content of a file in keys/.
type Sealed struct {
	Version int       `json:"version"`
	Store   string    `json:"store"` // the store's id, 32 hexadecimal digits
	Kind    string    `json:"kind"`  // "key" or "passphrase"
	Created time.Time `json:"created"`
	Argon   *Argon    `json:"argon2id,omitempty"`
	Nonce   string    `json:"nonce"`
	Sealed  string    `json:"sealed"`
}

// Argon says how a key is made of a passphrase: RFC 9106.
type Argon struct {
	Salt    string `json:"salt"`
	Time    uint32 `json:"time"`   // passes
	Memory  uint32 `json:"memory"` // KiB
	Threads uint8  `json:"threads"`
}

// Cost of a new passphrase: the second choice of RFC 9106, section 4, with four times the memory.
const (
	argonTime    = 3
	argonMemory  = 256 << 10
	argonThreads = 1
)

// NewID returns a name for a Sealed, 16 hexadecimal digits.
func NewID() (string, error) {
	var b [8]byte
	_, err := rand.Read(b[:])
	return hex.EncodeToString(b[:]), err
}

// ValidID tells whether a Sealed may have this name.
func ValidID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 8 && strings.ToLower(id) == id
}

// Key is the key of a store. It is safe for concurrent use.
type Key struct {
	key     []byte
	Records cipher.AEAD // seals records
	files   cipher.AEAD
}

// New makes a key for a new store.
func New() (*Key, error) {
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return newKey(b)
}

func newKey(b []byte) (_ *Key, err error) {
	k := &Key{key: b}
	if k.Records, err = k.derive("mimeo-store-records"); err == nil {
		k.files, err = k.derive("mimeo-store-files")
	}
	return k, err
}

func (k *Key) derive(info string) (cipher.AEAD, error) {
	b, err := hkdf.Key(sha256.New, k.key, nil, info, size)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.NewX(b)
}

// Cache seals copies of chunks that lie elsewhere than in the store.
type Cache struct {
	cipher.AEAD
	names []byte
}

// Cache returns what seals copies of chunks.
func (k *Key) Cache() (c Cache, err error) {
	if c.AEAD, err = k.derive("mimeo-store-cache"); err == nil {
		c.names, err = hkdf.Key(sha256.New, k.key, nil, "mimeo-store-cache-names", size)
	}
	return c, err
}

// Name returns what a copy of a chunk is called: it does not tell the chunk's ID.
func (c Cache) Name(id [32]byte) (name [32]byte) {
	h := hmac.New(sha256.New, c.names)
	h.Write(id[:])
	h.Sum(name[:0])
	return name
}

// Seal seals the key by a secret, for the store and under the name id, and returns the file's content.
func (k *Key) Seal(by Secret, store, id string) ([]byte, error) {
	s := Sealed{Version: version, Store: store, Kind: by.Kind(), Created: time.Now().UTC().Truncate(time.Second)}
	var b [chacha20poly1305.NonceSizeX + 16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	nonce, salt := b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:]
	s.Nonce = encoding.EncodeToString(nonce)
	if by.key == nil {
		s.Argon = &Argon{Salt: encoding.EncodeToString(salt), Time: argonTime, Memory: argonMemory, Threads: argonThreads}
	}
	a, err := s.cipher(by)
	if err != nil {
		return nil, err
	}
	s.Sealed = encoding.EncodeToString(a.Seal(nil, nonce, k.key, associated(store, id)))
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

func associated(store, id string) []byte { return []byte(label + "\n" + store + "\n" + id) }

// cipher returns what s is sealed with, where the secret is the right one.
func (s *Sealed) cipher(by Secret) (cipher.AEAD, error) {
	if by.key != nil {
		b, err := hkdf.Key(sha256.New, by.key, nil, label, size)
		if err != nil {
			return nil, err
		}
		return chacha20poly1305.NewX(b)
	}
	if s.Argon == nil {
		return nil, errors.New("argon2id is missing")
	}
	salt, err := encoding.DecodeString(s.Argon.Salt)
	if a := s.Argon; err != nil || len(salt) != 16 || a.Time < 1 || a.Time > 64 || a.Threads < 1 || a.Threads > 64 || a.Memory < 8*uint32(a.Threads) || a.Memory > 2<<20 {
		return nil, errors.New("argon2id has values that cannot be")
	}
	b := argon2.IDKey(by.pass, salt, s.Argon.Time, s.Argon.Memory, s.Argon.Threads, size)
	// The room it took is some hundred MiB, and is not needed again.
	runtime.GC()
	return chacha20poly1305.NewX(b)
}

// Parse reads the content of a file in keys/.
func ParseSealed(b []byte) (*Sealed, error) {
	var s Sealed
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.Version != version {
		return nil, fmt.Errorf("version %d is unknown", s.Version)
	}
	if s.Kind != "key" && s.Kind != "passphrase" {
		return nil, fmt.Errorf("kind %.20q is unknown", s.Kind)
	}
	return &s, nil
}

// Open opens the key under the name id. ErrWrong says that this secret did not seal it.
func (s *Sealed) Open(by Secret, id string) (*Key, error) {
	if by.Kind() != s.Kind {
		return nil, ErrWrong
	}
	nonce, err := encoding.DecodeString(s.Nonce)
	sealed, serr := encoding.DecodeString(s.Sealed)
	if err != nil || serr != nil || len(nonce) != chacha20poly1305.NonceSizeX || len(sealed) != size+chacha20poly1305.Overhead {
		return nil, errors.New("the sealed key is cut off or changed")
	}
	a, err := s.cipher(by)
	if err != nil {
		return nil, err
	}
	b, err := a.Open(nil, nonce, sealed, associated(s.Store, id))
	if err != nil {
		return nil, ErrWrong
	}
	return newKey(b)
}

// SealFile seals the content of the file of that name.
func (k *Key) SealFile(name string, b []byte) ([]byte, error) {
	out := make([]byte, 0, len(b)+Over)
	out = append(out, fileMagic...)
	out = out[:len(fileMagic)+chacha20poly1305.NonceSizeX]
	if _, err := rand.Read(out[len(fileMagic):]); err != nil {
		return nil, err
	}
	return k.files.Seal(out, out[len(fileMagic):], b, []byte(name)), nil
}

// OpenFile returns what was sealed under that name.
func (k *Key) OpenFile(name string, b []byte) ([]byte, error) {
	if len(b) < Over || string(b[:len(fileMagic)]) != fileMagic {
		return nil, fmt.Errorf("%s: %d bytes that are no sealed file", name, len(b))
	}
	at := len(fileMagic) + chacha20poly1305.NonceSizeX
	out, err := k.files.Open(nil, b[len(fileMagic):at], b[at:], []byte(name))
	if err != nil {
		return nil, fmt.Errorf("%s: the sealed file is damaged, or another store's", name)
	}
	return out, nil
}
