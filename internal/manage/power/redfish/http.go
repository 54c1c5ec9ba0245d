package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/manage/power"
)

const (
	maxBody  = 4 << 20 // of an answer; a large system's is some 50 KiB
	dialTime = 5 * time.Second
	callTime = 30 * time.Second // for one answer
	tries    = 3                // of a request that failed on the way
	taskTime = 60 * time.Second // for a task to end
	maxPause = 10 * time.Second // that a Retry-After may ask for
)

// call is one request.
type call struct {
	method, path string
	in           any    // body; nil means none
	etag         string // for If-Match
	open         bool   // without signing in
	empty        bool   // an answer without a body is one
}

// tagged is what keeps the ETag that it was read with, for a later If-Match.
type tagged interface{ tag(etag string) }

// statusError is an HTTP status that is no success.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("%d %s", int(s), http.StatusText(int(s))) }

// again says that a request may be sent again, and after what time at least.
type again struct {
	error
	after time.Duration
}

func (a again) Unwrap() error { return a.error }

// do signs in where that was not done yet, sends a request and decodes its answer into out. What failed on the way, or
// met a busy BMC, is tried again; a POST only where it surely was not carried out.
func (c *Client) do(ctx context.Context, r call, out any) error {
	pause := c.o.Pause
	for try := 1; ; try++ {
		err := c.signIn(ctx, r)
		if err == nil {
			var task string
			if task, err = c.once(ctx, r, out); err == nil && task != "" {
				return c.wait(ctx, task)
			}
		}
		var more again
		if !errors.As(err, &more) || try == tries {
			if errors.As(err, &more) {
				return more.error
			}
			return err
		}
		select {
		case <-ctx.Done():
			return more.error
		case <-time.After(max(pause, min(more.after, maxPause))):
		}
		pause *= 2
	}
}

// signIn opens a session once. A BMC without a session service, or with none left, gets basic authentication.
func (c *Client) signIn(ctx context.Context, r call) error {
	if r.open || c.token != "" || c.basic || c.o.User == "" {
		return nil
	}
	root, err := c.readRoot(ctx)
	if err != nil {
		return err
	}
	resp, _, err := c.send(ctx, call{method: http.MethodPost, path: root.Links.Sessions.ID, in: map[string]string{"UserName": c.o.User, "Password": c.o.Password}, open: true})
	if err != nil {
		return again{error: err} // a session too many ends by itself
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest:
		return c.refused(nil)
	}
	token := resp.Header.Get("X-Auth-Token")
	if resp.StatusCode/100 != 2 || token == "" {
		c.basic = true
		return nil
	}
	c.token = token
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil && strings.HasPrefix(u.Path, "/") {
		c.session = u.Path
	}
	return nil
}

// once sends a request. Where the answer is 202, it returns the path of the task monitor.
func (c *Client) once(ctx context.Context, r call, out any) (task string, err error) {
	resp, body, err := c.send(ctx, r)
	if err != nil {
		if !errors.Is(err, power.ErrDenied) && (r.method != http.MethodPost || notSent(err)) {
			err = again{error: err}
		}
		return "", err
	}
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized && c.token != "" && !r.open:
		c.token, c.session = "", "" // the session has expired
		return "", again{error: c.refused(statusError(status))}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "", c.refused(statusError(status))
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests:
		return "", again{error: c.says(power.ErrBusy, r, resp, body, "try again in a minute"), after: time.Duration(after) * time.Second}
	case status == http.StatusConflict:
		return "", c.says(power.ErrBusy, r, resp, body, "")
	case status >= 500:
		err = c.says(power.ErrRefused, r, resp, body, "")
		if r.method == http.MethodGet {
			err = again{error: err}
		}
		return "", err
	case status/100 != 2:
		return "", c.says(power.ErrRefused, r, resp, body, "")
	case status == http.StatusAccepted:
		return taskPath(resp, body), nil
	case out == nil, r.empty && len(body) == 0:
		return "", nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return "", c.errorf(power.ErrRefused, fmt.Sprintf("answers no JSON to %s %s", r.method, r.path), "see whether this is the address of a BMC", err)
	}
	if s, ok := out.(tagged); ok && resp.Header.Get("ETag") != "" {
		s.tag(resp.Header.Get("ETag"))
	}
	return "", nil
}

// send sends a request and reads its answer, whatever its status.
func (c *Client) send(ctx context.Context, r call) (*http.Response, []byte, error) {
	var body io.Reader
	if r.in != nil {
		b, err := json.Marshal(r.in)
		if err != nil {
			return nil, nil, err
		}
		body = bytes.NewReader(b)
	}
	// Paths come from the BMC: they must not lead elsewhere.
	if !strings.HasPrefix(r.path, "/") || strings.HasPrefix(r.path, "//") {
		return nil, nil, c.errorf(power.ErrRefused, fmt.Sprintf("names the path %q, which is none", r.path), "", nil)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, body)
	if err != nil {
		return nil, nil, c.errorf(power.ErrRefused, fmt.Sprintf("names the path %q, which is none", r.path), "", nil)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if r.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.etag != "" {
		req.Header.Set("If-Match", r.etag)
	}
	switch {
	case r.open:
	case c.token != "":
		req.Header.Set("X-Auth-Token", c.token)
	case c.o.User != "":
		req.SetBasicAuth(c.o.User, c.o.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, nil, c.errorf(power.ErrUnreachable, fmt.Sprintf("broke off its answer to %s %s", r.method, r.path), "", err)
	case len(answer) > maxBody:
		return nil, nil, c.errorf(power.ErrRefused, fmt.Sprintf("answers more than %d bytes to %s %s", maxBody, r.method, r.path), "", nil)
	}
	return resp, answer, nil
}

// taskPath finds the monitor of a task that was accepted (DSP0266 section 12.2): in the Location header, or else the
// task itself.
func taskPath(resp *http.Response, body []byte) string {
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil && strings.HasPrefix(u.Path, "/") {
		return u.Path
	}
	var t link
	if json.Unmarshal(body, &t) == nil && strings.HasPrefix(t.ID, "/") {
		return t.ID
	}
	return ""
}

// wait asks a task monitor until the task has ended. A task that is no longer known has.
func (c *Client) wait(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, taskTime)
	defer cancel()
	r := call{method: http.MethodGet, path: path, empty: true}
	for pause := c.o.Pause / 4; ; pause = min(2*pause, 3*time.Second) {
		var t struct {
			TaskState string
			Messages  []struct{ Message string }
		}
		more, err := c.once(ctx, r, &t)
		var status statusError
		var retry again
		switch {
		case errors.As(err, &status) && (status == http.StatusNotFound || status == http.StatusGone):
			return nil
		case errors.As(err, &retry):
			// the next look may do
		case err != nil:
			return err
		case more != "", t.TaskState == "New", t.TaskState == "Starting", t.TaskState == "Running", t.TaskState == "Pending":
		case t.TaskState == "Exception", t.TaskState == "Killed", t.TaskState == "Cancelled":
			text := "no reason given"
			if len(t.Messages) > 0 {
				text = clip(t.Messages[0].Message)
			}
			return c.errorf(power.ErrRefused, fmt.Sprintf("gave the task up (%s): %s", t.TaskState, text), "", nil)
		default:
			return nil
		}
		select {
		case <-ctx.Done():
			return c.errorf(power.ErrState, "does not end its task", "look at the BMC's own page", ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (c *Client) refused(cause error) error {
	return c.errorf(power.ErrDenied, fmt.Sprintf("refused user %q", c.o.User), `set the account with "mimeo node set NODE bmc.user=USER" and "--password-stdin", then try again`, cause)
}

// says is the error for an answer that is no success, with the BMC's own words.
func (c *Client) says(kind error, r call, resp *http.Response, body []byte, hint string) error {
	text, own := message(body)
	if own != "" {
		hint = own
	}
	return c.errorf(kind, fmt.Sprintf("answers to %s %s: %s", r.method, r.path, text), hint, statusError(resp.StatusCode))
}

// message takes the words out of a Redfish error (DSP0266 section 8.6): what is wrong, and what to do.
func message(body []byte) (text, resolution string) {
	var e struct {
		Error struct {
			Message string
			Info    []struct{ Message, Resolution string } `json:"@Message.ExtendedInfo"`
		}
	}
	if json.Unmarshal(body, &e) == nil {
		for _, i := range e.Error.Info {
			if i.Message != "" {
				if i.Resolution == "None" || i.Resolution == "None." {
					i.Resolution = ""
				}
				return clip(i.Message), clip(i.Resolution)
			}
		}
		if e.Error.Message != "" {
			return clip(e.Error.Message), ""
		}
	}
	if s := clip(string(body)); s != "" {
		return s, ""
	}
	return "nothing said", ""
}

// clip makes a BMC's text fit for a terminal: one line, no control characters, not long.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}
