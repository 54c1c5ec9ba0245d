package redfish

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

// logService is what is read of one.
type logService struct {
	ID      string `json:"Id"`
	Kind    string `json:"LogEntryType"`
	Entries link
	Actions struct {
		Clear struct {
			Target string `json:"target"`
		} `json:"#LogService.ClearLog"`
	}
}

// rank puts the log of the hardware first: by its declared kind, or by the names that vendors give it.
func (l logService) rank() int {
	id := strings.ToLower(l.ID)
	switch {
	case l.Kind == "SEL", id == "sel":
		return 0
	case id == "iml", id == "eventlog", id == "log1", id == "platformlog": // HPE, others
		return 1
	case l.Kind == "Event", l.Kind == "Multiple":
		return 2
	case strings.Contains(id, "audit"), strings.Contains(id, "dump"), strings.Contains(id, "fault"), strings.Contains(id, "post"):
		return 9
	}
	return 5
}

// hardwareLog finds the log of the hardware's events: at the system, or at what manages it.
func (c *Client) hardwareLog(ctx context.Context) (logService, error) {
	var found []logService
	s, err := c.system(ctx)
	if err != nil {
		return logService{}, err
	}
	paths := []string{s.LogServices.ID}
	for _, l := range s.Links.ManagedBy {
		var m struct{ LogServices link }
		if err := c.do(ctx, call{method: http.MethodGet, path: l.ID}, &m); err != nil && !missing(err) {
			return logService{}, err
		}
		paths = append(paths, m.LogServices.ID)
	}
	for _, path := range paths {
		if path == "" {
			continue
		}
		links, err := members[link](ctx, c, path)
		if err != nil && !missing(err) {
			return logService{}, err
		}
		for _, l := range links {
			var one logService
			if err := c.do(ctx, call{method: http.MethodGet, path: l.ID}, &one); err != nil && !missing(err) {
				return logService{}, err
			}
			if one.Entries.ID != "" {
				found = append(found, one)
			}
		}
		if slices.ContainsFunc(found, func(l logService) bool { return l.rank() < 2 }) {
			break // what manages it may have logs of its own
		}
	}
	if len(found) == 0 {
		return logService{}, c.errorf(power.ErrCannot, "has no event log", "", nil)
	}
	slices.SortStableFunc(found, func(a, b logService) int { return cmp.Compare(a.rank(), b.rank()) })
	return found[0], nil
}

// Log reads the log of the hardware's events, oldest first.
func (c *Client) Log(ctx context.Context) (out []api.LogEntry, err error) {
	err = c.alone(ctx, switchTime, func(ctx context.Context) error {
		l, err := c.hardwareLog(ctx)
		if err != nil {
			return err
		}
		type entry struct {
			Path     string `json:"@odata.id"`
			ID       string `json:"Id"`
			Created  string
			Severity string
			Message  string
		}
		list, err := members[entry](ctx, c, l.Entries.ID)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.ID == "" && e.Path != "" { // a member without its content
				if err := c.do(ctx, call{method: http.MethodGet, path: e.Path}, &e); err != nil {
					if missing(err) {
						continue
					}
					return err
				}
			}
			o := api.LogEntry{ID: clip(e.ID), Severity: sane(e.Severity), Text: clip(e.Message)}
			if t, err := time.Parse(time.RFC3339, e.Created); err == nil && t.Year() > 1990 {
				o.Time = &t
			}
			out = append(out, o)
		}
		// Some BMCs put the newest first.
		if n := len(out); n > 1 && out[0].Time != nil && out[n-1].Time != nil && out[0].Time.After(*out[n-1].Time) {
			slices.Reverse(out)
		}
		return nil
	})
	return out, err
}

// ClearLog empties the log that Log reads.
func (c *Client) ClearLog(ctx context.Context) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		l, err := c.hardwareLog(ctx)
		if err != nil {
			return err
		}
		if l.Actions.Clear.Target == "" {
			return c.errorf(power.ErrCannot, "has an event log that cannot be emptied", "", nil)
		}
		return c.do(ctx, call{method: http.MethodPost, path: l.Actions.Clear.Target, in: map[string]string{}}, nil)
	})
}
