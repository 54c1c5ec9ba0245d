package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"mimeo/internal/cluster/node"
)

// loadCert reads the server's key and certificate, or makes them. The certificate says nothing that counts: whoever
// connects checks the key against its pin, the SHA-256 of the SubjectPublicKeyInfo.
func loadCert(dir string) (cert tls.Certificate, pin string, err error) {
	keyFile, certFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	cert, err = tls.LoadX509KeyPair(certFile, keyFile)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeCert(keyFile, certFile); err == nil {
			cert, err = tls.LoadX509KeyPair(certFile, keyFile)
		}
	}
	if err != nil {
		return cert, "", fmt.Errorf("TLS key: %w", err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return cert, "", fmt.Errorf("TLS key: %w", err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return cert, hex.EncodeToString(sum[:]), nil
}

func makeCert(keyFile, certFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	// Nodes without a clock may believe that it is 1970, and pins do not expire.
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "mimeod"}, NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{"mimeod"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeSecret(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})); err != nil {
		return err
	}
	return writeSecret(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// writeSecret writes a file that only its owner may read. It is there as a whole, after a power cut too, or not.
func writeSecret(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(path+".new", path)
}

func loadSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		b = make([]byte, 32)
		rand.Read(b)
		err = writeSecret(path, b)
	}
	if err == nil && len(b) != 32 {
		err = fmt.Errorf("%s has %d bytes, not 32: put the right file back, or remove it, and nodes that run a task now get a new token at their next boot", path, len(b))
	}
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return b, nil
}

// A node's token names what it is good for, and proves it: KIND.SUBJECT.NONCE.MAC, where MAC is a HMAC-SHA-256 over
// the rest. Nothing is kept: a job's token is good as long as the job, a boot's until the node's nonce changes.
const (
	tokenJob  = "job"  // subject: the job; nonce: the node
	tokenBoot = "boot" // subject: the node; nonce: of its boot
	tokenNew  = "new"  // subject: the MAC of a machine that was discovered
)

func (s *Server) token(kind, subject, nonce string) string {
	text := kind + "." + subject + "." + nonce
	return text + "." + hex.EncodeToString(s.mac(text))
}

func (s *Server) mac(text string) []byte {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// readToken checks a node's token and takes it apart.
func (s *Server) readToken(token string) (kind, subject, nonce string, ok bool) {
	p := strings.Split(token, ".")
	if len(p) != 4 {
		return "", "", "", false
	}
	mac, err := hex.DecodeString(p[3])
	if err != nil || subtle.ConstantTimeCompare(mac, s.mac(strings.Join(p[:3], "."))) != 1 {
		return "", "", "", false
	}
	return p[0], p[1], p[2], true
}

// hostKey is the SSH host key of a node that runs a stateless system, in OpenSSH's format. It is made of this server's
// secret and the node's name, so that a node is the same to those who sign in after each of its reboots.
func (s *Server) hostKey(n node.Node) (string, error) {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte("ssh host key of a stateless system\n" + string(n.Name)))
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(h.Sum(nil)), "root@"+string(n.Name))
	if err != nil {
		return "", fmt.Errorf("SSH host key: %w", err)
	}
	return string(pem.EncodeToMemory(block)), nil
}
