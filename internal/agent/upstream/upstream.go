// Package upstream speaks to the management node for the agent.
package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

// Server is the management node. Its methods may be called from several goroutines.
type Server struct {
	base  string
	token string
	http  *http.Client
}

// New returns the server at an https URL whose key has the pinned SHA-256, hexadecimal. It does not speak to it yet.
func New(base, pin, token string) (*Server, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q is not a URL like https://10.0.0.1:4443", base)
	}
	if b, err := hex.DecodeString(pin); err != nil || len(b) != 32 {
		return nil, fmt.Errorf("pin %q is not a SHA-256 in hexadecimal", pin)
	}
	if token == "" {
		return nil, errors.New("the token is missing")
	}
	dial := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	tr := &http.Transport{
		DialContext: dial.DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, // the pin is the check, and a stricter one; it also needs no clock
			VerifyConnection:   func(s tls.ConnectionState) error { return client.CheckPin(pin, s.PeerCertificates) },
		},
		TLSHandshakeTimeout: 20 * time.Second,
		MaxIdleConnsPerHost: 16, // askers, senders and the agent's own messages
		IdleConnTimeout:     30 * time.Second,
		// HTTP/1.1 alone: with HTTP/2 all requests would share one connection, and its one TCP window.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	return &Server{base: strings.TrimRight(base, "/"), token: token, http: &http.Client{Transport: tr}}, nil
}

// Base returns the server's URL, Token the bearer token, and HTTP a client that checks the pin and has no time limit:
// what a store client needs.
func (s *Server) Base() string       { return s.base }
func (s *Server) Token() string      { return s.token }
func (s *Server) HTTP() *http.Client { return s.http }

// Close drops the connections that are idle.
func (s *Server) Close() { s.http.CloseIdleConnections() }

// Refusal is an answer of 4xx or 5xx.
type Refusal struct {
	Status int
	Err    *api.Error
}

func (e *Refusal) Error() string { return e.Err.Message }

// Unwrap returns the server's own error, with its hint.
func (e *Refusal) Unwrap() error { return e.Err }

// Final tells whether an error is the server's word that asking again is of no use: the token is not good any more, the
// job is not this node's, or the two do not speak the same version.
func Final(err error) bool {
	var r *Refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusGone:
		return true
	}
	return false
}

// maxAnswer bounds an answer; a task with its postscripts is the largest.
const maxAnswer = 32 << 20

// post sends in and reads the answer into out (nil for none), within limit.
func (s *Server) post(ctx context.Context, path string, in, out any, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return s.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return s.unreachable(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		r := &Refusal{resp.StatusCode, &api.Error{}}
		if json.Unmarshal(b, r.Err) != nil || r.Err.Message == "" {
			r.Err = &api.Error{Code: "internal", Message: fmt.Sprintf("the server answered %s to %s", resp.Status, path)}
		}
		return r
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the server's answer to %s: %w", path, err)
	}
	return nil
}

func (s *Server) unreachable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is in the message below
	}
	return fmt.Errorf("reach the server %s: %w", s.base, err)
}

// Hello reports the machine and returns the task.
func (s *Server) Hello(ctx context.Context, h api.Hello) (t api.Task, err error) {
	err = s.post(ctx, api.PathHello, h, &t, 30*time.Second)
	return t, err
}

// Progress tells how far the task is.
func (s *Server) Progress(ctx context.Context, p api.Progress) (r api.ProgressReply, err error) {
	err = s.post(ctx, api.PathProgress, p, &r, 10*time.Second)
	return r, err
}

// Done tells how the task ended. The server publishes before it answers, which may take its time.
func (s *Server) Done(ctx context.Context, d api.Done) (r api.DoneReply, err error) {
	err = s.post(ctx, api.PathDone, d, &r, 2*time.Minute)
	return r, err
}

// Trouble tells why the stateless image does not come up.
func (s *Server) Trouble(ctx context.Context, t api.Trouble) error {
	return s.post(ctx, api.PathTrouble, t, nil, 10*time.Second)
}
