package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

const sshDir = "etc/ssh"

// defaultRSA is the length of new RSA keys in bits where the old one's cannot be read: what ssh-keygen makes.
const defaultRSA = 3072

// hostKeys makes a new key for each one that is there, of the same kind and length. A DSA key, which OpenSSH has not
// used for years, is removed, and so are certificates, which name the old keys.
func (t *tree) hostKeys(host string) error {
	if b, ok, err := t.read("etc/hostname"); host == "" && err == nil && ok {
		host = firstWord(string(b))
	}
	short, _, _ := strings.Cut(host, ".")
	var made []string
	for _, kind := range []string{"rsa", "ecdsa", "ed25519", "dsa"} {
		key := sshDir + "/ssh_host_" + kind + "_key"
		if _, err := t.r.Lstat(key); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := t.remove(key + "-cert.pub"); err != nil {
			return err
		}
		if kind == "dsa" {
			if err := errors.Join(t.remove(key), t.remove(key+".pub")); err != nil {
				return err
			}
			continue
		}
		old, _, _ := t.read(key + ".pub") // without, the usual length
		private, public, err := newKey(kind, bitsOf(old), comment(short))
		if err != nil {
			return err
		}
		if err := t.write(key, private, 0o600); err != nil {
			return err
		}
		if err := t.write(key+".pub", public, 0o644); err != nil {
			return err
		}
		made = append(made, kind)
	}
	if len(made) > 0 {
		t.did("SSH host keys made new: %s", strings.Join(made, ", "))
	}
	return nil
}

func comment(host string) string {
	if host == "" {
		return "root"
	}
	return "root@" + host
}

// bitsOf returns the length of an RSA or ECDSA key from its public line; 0 where it cannot be read.
func bitsOf(line []byte) int {
	pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return 0
	}
	c, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	switch k := c.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		return k.N.BitLen()
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize
	}
	return 0
}

// newKey makes a key pair: the private one in OpenSSH's format, the public one as a line.
func newKey(kind string, bits int, comment string) (private, public []byte, err error) {
	var key crypto.Signer
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		curve := elliptic.P256()
		switch bits {
		case 384:
			curve = elliptic.P384()
		case 521:
			curve = elliptic.P521()
		}
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	case "rsa":
		if bits < 2048 || bits > 8192 {
			bits = defaultRSA
		}
		key, err = rsa.GenerateKey(rand.Reader, bits)
	default:
		err = fmt.Errorf("no way to make a %s key", kind)
	}
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, nil, err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " " + comment + "\n"
	return pem.EncodeToMemory(block), []byte(line), nil
}

// WriteHostKey writes a new host key of a kind (ed25519, ecdsa, rsa) to path, and its public half to path.pub.
func WriteHostKey(path, kind, host string) error {
	private, public, err := newKey(kind, 0, comment(host))
	if err == nil {
		os.Remove(path)
		err = os.WriteFile(path, private, 0o600)
	}
	if err == nil {
		err = os.WriteFile(path+".pub", public, 0o644)
	}
	if err != nil {
		return fmt.Errorf("make an SSH host key: %w", err)
	}
	return nil
}

// PutHostKey writes a host key that is given, in OpenSSH's format, to path, and its public half to path.pub.
func PutHostKey(path, private string) error {
	signer, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil {
		return fmt.Errorf("read the SSH host key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	os.Remove(path)
	if err := os.WriteFile(path, []byte(private), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644)
}
