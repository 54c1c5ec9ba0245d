package httpstore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// maxList bounds the answer that lists images or revisions, in bytes.
const maxList = 64 << 20

// Get implements store.Reader.
func (c *Client) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	var buf []byte
	for len(ids) > 0 {
		part := ids[:min(len(ids), MaxGet)]
		ids = ids[len(part):]
		left := make(map[chunk.ID]int, len(part))
		for _, id := range part {
			left[id]++
		}
		err := c.retry(ctx, "fetch chunks", func() (err error) {
			buf, err = c.getLeft(ctx, part, left, buf, fn)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// getLeft asks once for those of part that are still in left, and takes those that come out of it: after a try that
// was cut off, they are not asked for again. It uses and returns buf.
func (c *Client) getLeft(ctx context.Context, part []chunk.ID, left map[chunk.ID]int, buf []byte, fn func(chunk.Encoded) error) ([]byte, error) {
	ask := make([]chunk.ID, 0, len(part))
	todo := maps.Clone(left)
	for _, id := range part {
		if todo[id] > 0 {
			todo[id]--
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return buf, nil
	}
	got := 0
	err := c.do(ctx, http.MethodPost, "get", idsType, joinIDs(ask), nil, c.o.Stall, func(r io.Reader, t *time.Timer) (err error) {
		buf, err = readFrames(r, buf, func(e chunk.Encoded) error {
			if left[e.ID] == 0 {
				return ours{fmt.Errorf("fetch chunks: the server sent chunk %s, which was not asked for", e.ID)}
			}
			left[e.ID]--
			got++
			c.success()
			t.Stop() // the caller may take its time
			err := fn(e)
			t.Reset(c.o.Stall)
			if err != nil {
				return ours{err}
			}
			return nil
		})
		return err
	})
	if err == nil && got < len(ask) {
		err = ours{fmt.Errorf("fetch chunks: the server sent %d of %d", got, len(ask))}
	}
	return buf, err
}

// Manifest implements store.Reader.
func (c *Client) Manifest(ctx context.Context, id manifest.ID) (*manifest.Manifest, error) {
	what := "fetch manifest " + id.String()
	var b []byte
	err := c.retry(ctx, what, func() error {
		err := c.do(ctx, http.MethodGet, "manifests/"+id.String(), "", nil, nil, c.o.Stall, whole(manifest.MaxSize, &b))
		if err == nil && manifest.Sum(b) != id {
			return ours{fmt.Errorf("%s: the hash of what came is %s", what, manifest.Sum(b))}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return manifest.Decode(b)
}

// Images implements store.Reader.
func (c *Client) Images(ctx context.Context) ([]string, error) {
	var names []string
	err := c.list(ctx, "list images", "images", &names)
	return names, err
}

// Revisions implements store.Reader.
func (c *Client) Revisions(ctx context.Context, image string) ([]store.Revision, error) {
	if err := manifest.ValidName(image); err != nil {
		return nil, err
	}
	var revs []store.Revision
	err := c.list(ctx, "list revisions of "+image, "images/"+url.PathEscape(image)+"/revisions", &revs)
	return revs, err
}

func (c *Client) list(ctx context.Context, what, path string, to any) error {
	return c.retry(ctx, what, func() error {
		var b []byte
		if err := c.do(ctx, http.MethodGet, path, "", nil, nil, c.o.Stall, whole(maxList, &b)); err != nil {
			return err
		}
		if err := json.Unmarshal(b, to); err != nil {
			return ours{fmt.Errorf("%s: %w", what, err)}
		}
		return nil
	})
}
