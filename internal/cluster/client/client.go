// Package client calls the management node's API with the messages of package api.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
)

// Access says how to reach a management node. It is the content of the file that mimeod writes at its first start.
type Access struct {
	Server string `json:"server"` // https://ADDRESS:PORT
	Pin    string `json:"pin"`    // SHA-256 of the server key's SubjectPublicKeyInfo, hexadecimal; empty means the system's CAs
	Token  string `json:"token"`
}

// Client is safe for use from several goroutines.
type Client struct {
	access Access
	http   *http.Client
}

// New makes a client.
func New(a Access) *Client {
	a.Server = strings.TrimRight(a.Server, "/")
	return &Client{access: a, http: a.HTTP()}
}

// HTTP returns a client that checks the server's pin and has no time limit. The token is the caller's to send.
func (a Access) HTTP() *http.Client {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.Proxy = nil
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.Pin != "" {
		tr.TLSClientConfig.InsecureSkipVerify = true // the pin below is the check, and a stricter one
		tr.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { return CheckPin(a.Pin, s.PeerCertificates) }
	}
	return &http.Client{Transport: tr}
}

// CheckPin compares the server's key with its pin.
func CheckPin(pin string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return errors.New("the server showed no certificate")
	}
	sum := sha256.Sum256(certs[0].RawSubjectPublicKeyInfo)
	if got := hex.EncodeToString(sum[:]); !strings.EqualFold(got, pin) {
		return fmt.Errorf("the server's key is %s, not the pinned %s", got, strings.ToLower(pin))
	}
	return nil
}

// Find looks for an Access: MIMEO_SERVER, MIMEO_PIN and MIMEO_TOKEN; the file MIMEO_ADMIN_FILE; the user's own file
// from "mimeo login"; the file that mimeod wrote for root.
func Find() (Access, error) {
	if s := os.Getenv("MIMEO_SERVER"); s != "" {
		return Access{Server: s, Pin: os.Getenv("MIMEO_PIN"), Token: os.Getenv("MIMEO_TOKEN")}, nil
	}
	files := []string{os.Getenv("MIMEO_ADMIN_FILE"), UserFile(), "/var/lib/mimeo/admin.json"}
	if files[0] != "" {
		files = files[:1]
	}
	var last error
	for _, f := range files {
		if f == "" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			if last == nil || !errors.Is(err, os.ErrNotExist) {
				last = err
			}
			continue
		}
		var a Access
		if err := json.Unmarshal(b, &a); err != nil {
			return Access{}, fmt.Errorf("read %s: %w", f, err)
		}
		return a, nil
	}
	return Access{}, &api.Error{Code: "no_access", Message: fmt.Sprintf("no management node is known here: %v", last),
		Hint: `run as root on the management node, or sign in with "mimeo login https://ADDRESS:4443 --pin PIN"`}
}

// UserFile is where "mimeo login" keeps a user's Access.
func UserFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "mimeo", "admin.json")
}

// Do sends in (nil for none) and reads the answer into out (nil for none).
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

// Stream sends in and calls fn with the data of each server-sent event, until the stream ends or fn fails.
func (c *Client) Stream(ctx context.Context, method, path string, in any, fn func(data []byte) error) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 4<<20)
	var data []byte
	for sc.Scan() {
		line := sc.Bytes()
		switch {
		case bytes.HasPrefix(line, []byte("data:")):
			data = append(data, bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("data:")), []byte(" "))...)
		case len(line) == 0 && len(data) > 0:
			if err := fn(data); err != nil {
				return err
			}
			data = data[:0]
		}
	}
	if err := sc.Err(); err != nil {
		return c.unreachable(err)
	}
	return nil
}

// Download writes the bytes of an answer to w. Where the answer breaks off it fails.
func (c *Client) Download(ctx context.Context, path string, w io.Writer) error {
	return c.Receive(ctx, http.MethodGet, path, w)
}

// Receive is Download with another method than GET.
func (c *Client) Receive(ctx context.Context, method, path string, w io.Writer) error {
	resp, err := c.send(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("%s %s: the answer broke off: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.access.Server+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.sendBy(c.http, req)
}

// sendBy sends a request with the token; an answer that is no success becomes an error.
func (c *Client) sendBy(h *http.Client, req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+c.access.Token)
	resp, err := h.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &api.Error{}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e = &api.Error{Code: "internal", Message: fmt.Sprintf("the server answered %s to %s %s", resp.Status, req.Method, req.URL.RequestURI())}
	}
	return nil, e
}

func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return &api.Error{Code: "unreachable", Message: fmt.Sprintf("management node %s: %v", c.access.Server, rootCause(err)),
		Hint: "see whether mimeod runs there, and whether its port 4443 can be reached from here"}
}

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
