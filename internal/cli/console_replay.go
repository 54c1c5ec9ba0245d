package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"
	"unicode/utf8"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/transcript"
)

// replayOptions say how a log is played.
type replayOptions struct {
	since    string
	speed    float64
	maxPause time.Duration
	plain    bool
	paced    bool // with the pauses of then
}

// replayConsole plays what was logged of a node's console.
func (t *terminal) replayConsole(ctx context.Context, name string, o replayOptions) error {
	if !(o.speed > 0 && o.speed <= 1e6) {
		return usagef("--speed %v: want a number above 0", o.speed)
	}
	path := "/v1/nodes/" + url.PathEscape(name) + "/console/log"
	if o.since != "" {
		since, err := parseSince(o.since, time.Now())
		if err != nil {
			return err
		}
		path += "?since=" + url.QueryEscape(since.Format(time.RFC3339Nano))
	}
	c, err := connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		w.CloseWithError(c.Download(ctx, path, w))
	}()
	defer func() {
		cancel()
		r.Close()
		<-loaded
	}()
	out := bufio.NewWriter(t.out)
	show := t.replayShow(out, o)
	in, n := transcript.NewReader(r), 0
	for ; ; n++ {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = show(ctx, &rec)
		}
		if err != nil {
			out.Flush()
			return err
		}
	}
	if err := errors.Join(show(ctx, nil), out.Flush()); err != nil {
		return err
	}
	if n == 0 {
		return &api.Error{Code: "not_found", Message: "nothing is logged of the console of " + name + map[bool]string{true: " since then"}[o.since != ""],
			Hint: fmt.Sprintf(`it is logged while somebody is attached, and always after "mimeo node set %s label.console.log=all"`, name)}
	}
	return nil
}

// replayShow makes a function that shows a record, and the end for nil.
func (t *terminal) replayShow(out *bufio.Writer, o replayOptions) func(context.Context, *transcript.Record) error {
	if t.json {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return func(_ context.Context, r *transcript.Record) error {
			if r == nil {
				return nil
			}
			line := map[string]any{"time": r.Time, "kind": map[transcript.Kind]string{transcript.Output: "output", transcript.Note: "note"}[r.Kind]}
			if utf8.Valid(r.Data) {
				line["text"] = string(r.Data)
			} else {
				line["base64"] = r.Data
			}
			return enc.Encode(line)
		}
	}
	if o.plain {
		p := transcript.NewPlain(out)
		return func(_ context.Context, r *transcript.Record) error {
			if r == nil {
				return p.Flush()
			}
			r.Time = r.Time.Local()
			return p.Write(*r)
		}
	}
	var last time.Time
	return func(ctx context.Context, r *transcript.Record) error {
		if r == nil {
			if isTTY(t.out) {
				fmt.Fprint(out, "\x1b[0m\r\n") // whatever colours are left on
			}
			return nil
		}
		if o.paced && !last.IsZero() {
			if pause := o.pause(r.Time.Sub(last)); pause > 0 {
				if err := out.Flush(); err != nil {
					return err
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		last = r.Time
		if r.Kind == transcript.Note {
			fmt.Fprintf(out, "\r\n[mimeo: %s: %s]\r\n", r.Time.Local().Format(time.DateTime), printable(string(r.Data)))
			return nil
		}
		_, err := out.Write(r.Data)
		return err
	}
}

// pause is how long to wait between two records.
func (o replayOptions) pause(d time.Duration) time.Duration {
	d = time.Duration(float64(d) / o.speed)
	if o.maxPause > 0 {
		d = min(d, o.maxPause)
	}
	return d
}

// parseSince reads how long ago, or a time of this machine's clock.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--since %q: want something like 10m or 2h, or a time as 2026-03-04 05:06", s)
}
