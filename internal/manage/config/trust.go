package config

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/imaging/store/sign"
)

// Trust is a public key whose signatures of revisions count.
type Trust struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // base64
}

// Public is the key, of which Complete checked the text.
func (t Trust) Public() ed25519.PublicKey {
	k, _ := sign.ParseKey(t.Key)
	return k
}

func (c *Config) checkTrust() error {
	for i, t := range c.Trust {
		key := fmt.Sprintf("trust[%d]", i)
		switch {
		case t.Name == "" || len(t.Name) > 100 || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' }):
			return c.wrong(key+".name", "%q: want a name for the key, of at most 100 characters", t.Name)
		case slices.ContainsFunc(c.Trust[:i], func(o Trust) bool { return o.Key == t.Key }):
			return c.wrong(key+".key", "%s stands there twice", t.Key)
		}
		if _, err := sign.ParseKey(t.Key); err != nil {
			return c.wrong(key+".key", "%v", err)
		}
	}
	return nil
}
