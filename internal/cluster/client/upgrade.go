package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"

	"mimeo/internal/cluster/api"
)

// Upgrade asks for another protocol on the connection, and returns the connection when that was granted. Cancelling ctx
// closes it.
func (c *Client) Upgrade(ctx context.Context, method, path, protocol string) (io.ReadWriteCloser, error) {
	// Only HTTP/1.1 can be upgraded.
	tr := c.http.Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = false
	tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	req, err := http.NewRequestWithContext(ctx, method, c.access.Server+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	resp, err := c.sendBy(&http.Client{Transport: tr}, req)
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok || resp.Header.Get("Upgrade") != protocol {
		resp.Body.Close()
		return nil, &api.Error{Code: "internal", Message: fmt.Sprintf("the server answered %s to %s %s, not with %s", resp.Status, method, path, protocol)}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return &upgraded{conn, stop}, nil
}

type upgraded struct {
	io.ReadWriteCloser
	stop func() bool
}

func (u *upgraded) Close() error {
	u.stop()
	return u.ReadWriteCloser.Close()
}
