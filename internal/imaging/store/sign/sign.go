// Package sign signs revisions of images, and tells whose signature a revision has.
package sign

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/imaging/store"
)

// Most is how many signatures of a revision are looked at, and how many it may have.
const Most = 16

// encoding is that of keys and signatures: base64 with padding, and no other way to write the same bytes.
var encoding = base64.StdEncoding.Strict()

// message is what is signed, docs/formats/store.md, "Signatures". Its first line keeps it apart from all else that the
// same key signs.
func message(r store.Revision) []byte {
	return fmt.Appendf(nil, "mimeo-revision-v1\n%s\n%d\n%s\n", r.Image, r.Rev, r.ID)
}

// Sign signs a revision: its image, its number and its manifest.
func Sign(key ed25519.PrivateKey, r store.Revision) store.Signature {
	return store.Signature{Key: Text(key.Public().(ed25519.PublicKey)), Sig: encoding.EncodeToString(ed25519.Sign(key, message(r)))}
}

// Text is a public key as people and files have it.
func Text(key ed25519.PublicKey) string { return encoding.EncodeToString(key) }

// ParseKey reads what Text made.
func ParseKey(text string) (ed25519.PublicKey, error) {
	b, err := encoding.DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize || Text(b) != text {
		return nil, fmt.Errorf("%.60q is no public key: want the 44 characters that \"mimeo key show\" prints", text)
	}
	return b, nil
}

// Key is a public key whose signatures count.
type Key struct {
	Name   string // for people; it may be empty
	Public ed25519.PublicKey
}

// Keys are those that somebody trusts.
type Keys []Key

// ParseKeys reads a file of keys: in each line a key, and after a space its name. Empty lines and those that begin with
// # are left out.
func ParseKeys(text string) (Keys, error) {
	var keys Keys
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, name, _ := strings.Cut(line, " ")
		k, err := ParseKey(key)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		keys = append(keys, Key{strings.TrimSpace(name), k})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key in it")
	}
	return keys, nil
}

// State is what a signature is worth.
type State string

// The states of a signature.
const (
	Trusted State = "trusted" // right, and by a key that is trusted
	Unknown State = "unknown" // right, and by another key
	Wrong   State = "wrong"   // not of this revision, or damaged
)

// Found is a signature that a revision has.
type Found struct {
	Key   string // as the record has it
	Name  string // of the key, where it is trusted
	State State
}

// Look tells what each signature of a revision is worth.
func (k Keys) Look(r store.Revision) []Found {
	var out []Found
	for _, s := range r.Signatures[:min(len(r.Signatures), Most)] {
		f := Found{Key: s.Key, State: Wrong}
		key, err := ParseKey(s.Key)
		if i := slices.IndexFunc(k, func(t Key) bool { return err == nil && t.Public.Equal(key) }); i >= 0 {
			f.Name, f.State = k[i].Name, Trusted
		} else if err == nil {
			f.State = Unknown
		}
		sig, serr := encoding.DecodeString(s.Sig)
		if err != nil || serr != nil || !ed25519.Verify(key, message(r), sig) {
			f.State = Wrong
		}
		out = append(out, f)
	}
	return out
}

// Right returns the signatures of a revision that are right, whosever they are.
func Right(r store.Revision) []store.Signature {
	var right []store.Signature
	for i, f := range Keys(nil).Look(r) {
		if f.State != Wrong {
			right = append(right, r.Signatures[i])
		}
	}
	return right
}

// Check returns nil where a key that is trusted has signed the revision, else an *Error.
func (k Keys) Check(r store.Revision) error {
	found := k.Look(r)
	if slices.ContainsFunc(found, func(f Found) bool { return f.State == Trusted }) {
		return nil
	}
	return &Error{Revision: r, Found: found}
}

// Error says that nobody who is trusted has signed a revision.
type Error struct {
	Revision store.Revision
	Found    []Found // what it has instead
}

// Error says what the revision has instead.
func (e *Error) Error() string {
	var what []string
	for _, f := range e.Found {
		switch {
		case f.State == Unknown:
			what = append(what, "it is signed by "+f.Key+", a key that is not trusted here")
		case f.Name != "":
			what = append(what, fmt.Sprintf("the signature by %s (%.44s) is wrong: it is not of this image, number and manifest", f.Name, f.Key))
		default:
			what = append(what, fmt.Sprintf("the signature by %.44q is wrong: it is not of this image, number and manifest", f.Key))
		}
	}
	if len(what) == 0 {
		return fmt.Sprintf("%s is not signed", e.Revision)
	}
	return fmt.Sprintf("%s is not signed by a key that is trusted: %s", e.Revision, strings.Join(what, "; "))
}

// Unsigned tells whether the revision has no signature at all, as one that was made before revisions were signed.
func (e *Error) Unsigned() bool { return len(e.Found) == 0 }
