package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"mimeo/internal/cluster/api"
)

// progress shows jobs as they go on: on a terminal a line each, as many as there is room for, and one for all; elsewhere
// a line at each change.
type progress struct {
	t    *terminal
	mu   sync.Mutex
	jobs map[string]api.Job
	all  bool // there are several: they get a line for all, too

	// on a terminal
	tty   *os.File
	drawn int // lines
	stop  chan struct{}
	ended sync.WaitGroup

	// elsewhere
	said  map[string]string
	when  map[string]time.Time
	tally time.Time // when the line for all was said
}

func (t *terminal) newProgress(jobs []api.Job) *progress {
	p := &progress{t: t, jobs: map[string]api.Job{}, all: len(jobs) > 1, said: map[string]string{}, when: map[string]time.Time{}, tally: time.Now()}
	for _, j := range jobs {
		p.jobs[j.ID] = j
	}
	if f, ok := t.err.(*os.File); ok && isTTY(f) && !t.json {
		p.tty, p.stop = f, make(chan struct{})
		p.ended.Go(p.draw)
	}
	return p
}

// update takes jobs as they are now.
func (p *progress) update(jobs []api.Job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range jobs {
		p.jobs[j.ID] = j
	}
	if p.tty == nil && !p.t.json {
		p.say(jobs)
	}
}

// The times between two lines about the same, where there is no terminal.
const (
	sayOne = 5 * time.Second
	sayAll = 10 * time.Second
)

// say prints a line for each new phase. One job alone gets one every sayOne within it, several get one for all.
func (p *progress) say(jobs []api.Job) {
	now := time.Now()
	for _, j := range jobs {
		key := string(j.Phase) + j.Waiting
		if p.said[j.ID] == key && (p.all || now.Sub(p.when[j.ID]) < sayOne) {
			continue
		}
		queued := j.Phase == api.PhaseQueued && p.all
		if p.said[j.ID], p.when[j.ID] = key, now; queued {
			continue
		}
		fmt.Fprintf(p.t.err, "%s  %-16s %s\n", j.Node, j.Phase, numbers(j))
	}
	if p.all && now.Sub(p.tally) >= sayAll {
		p.tally = now
		fmt.Fprintln(p.t.err, tally(p.list(), now))
	}
}

// close shows all as it is in the end.
func (p *progress) close() {
	if p.tty != nil {
		close(p.stop)
		p.ended.Wait()
		return
	}
	if p.all && !p.t.json {
		fmt.Fprintln(p.t.err, tally(p.list(), time.Now()))
	}
}

func (p *progress) list() []api.Job {
	out := make([]api.Job, 0, len(p.jobs))
	for _, j := range p.jobs {
		out = append(out, j)
	}
	return out
}

// draw paints again and again until it is stopped.
func (p *progress) draw() {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		p.paint()
		select {
		case <-tick.C:
		case <-p.stop:
			p.paint()
			return
		}
	}
}

func (p *progress) paint() {
	width, height, err := term.GetSize(int(p.tty.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	p.mu.Lock()
	lines := frame(p.list(), width, height, time.Now())
	p.mu.Unlock()
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", min(p.drawn, height-1)) // up to where the last frame began
	}
	for _, l := range lines {
		b.WriteString("\r" + l + "\x1b[K\n") // and clear what is left of the line
	}
	b.WriteString("\x1b[J") // and of the frame
	p.drawn = len(lines)
	io.WriteString(p.tty, b.String())
}

// rank is where a job stands among others: what works on top, then what went wrong, what waits, what is done.
func rank(j api.Job) int {
	switch {
	case j.Active && j.Phase != api.PhaseQueued:
		return 0
	case j.Phase == api.PhaseFailed || j.Phase == api.PhaseLost:
		return 1
	case j.Active:
		return 2
	}
	return 3
}

// frame is what a terminal of so many columns and rows shows of jobs. The last row stays free for the cursor.
func frame(jobs []api.Job, width, height int, now time.Time) []string {
	slices.SortFunc(jobs, func(a, b api.Job) int {
		return cmp.Or(rank(a)-rank(b), natural(string(a.Node), string(b.Node)), strings.Compare(a.ID, b.ID))
	})
	room := max(1, height-1)
	if len(jobs) > 1 {
		if room < 3 {
			return []string{cut(tally(jobs, now), width)}
		}
		room--
	}
	shown := jobs
	if len(jobs) > room {
		shown = jobs[:room-1]
	}
	name := 0
	for _, j := range shown {
		name = max(name, len(j.Node))
	}
	var out []string
	for _, j := range shown {
		line := fmt.Sprintf("%-*s  %-16s", name, j.Node, j.Phase)
		if width >= 80 {
			line += " " + bar(j, 20)
		}
		out = append(out, cut(line+"  "+numbers(j), width))
	}
	if n := len(jobs) - len(shown); n > 0 {
		out = append(out, cut(fmt.Sprintf("... and %d more", n), width))
	}
	if len(jobs) > 1 {
		out = append(out, cut(tally(jobs, now), width))
	}
	return out
}

// bar is how far a phase is, n columns wide; blank where nobody knows.
func bar(j api.Job, n int) string {
	full := 0
	switch {
	case j.Phase == api.PhaseDone:
		full = n
	case j.Total > 0 && j.Active:
		full = int(min(j.Done, j.Total) * int64(n) / j.Total)
	default:
		return strings.Repeat(" ", n+2)
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", n-full) + "]"
}

// cut keeps a line on one row: a longer one would make the terminal scroll.
func cut(s string, width int) string {
	s = strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), " ")
	if utf8.RuneCountInString(s) < width {
		return s
	}
	return string([]rune(s)[:max(0, width-2)]) + "…"
}

// natural compares names as people do: n9 before n10.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := leading(a), leading(b)
		if da > 0 && db > 0 {
			na, nb := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(len(na)-len(nb), strings.Compare(na, nb)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// leading is how many digits a text begins with.
func leading(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// tally is one line for all jobs: how many are done, failed, at work and waiting, their rate, and the time left.
func tally(jobs []api.Job, now time.Time) string {
	var done, failed, cancelled, working, waiting, person int
	var rate int64
	for _, j := range jobs {
		switch {
		case j.Phase == api.PhaseDone:
			done++
		case j.Phase == api.PhaseFailed || j.Phase == api.PhaseLost:
			failed++
		case !j.Active:
			cancelled++
		case j.Phase == api.PhaseQueued:
			waiting++
		default:
			working++
			rate += j.Rate
			if j.Waiting != "" {
				person++
			}
		}
	}
	s := fmt.Sprintf("%d of %d done", done, len(jobs))
	for _, c := range []struct {
		n    int
		what string
	}{{failed, "failed"}, {cancelled, "cancelled"}, {working, "at work"}, {waiting, "waiting"}, {person, "need a person"}} {
		if c.n > 0 {
			s += fmt.Sprintf(", %d %s", c.n, c.what)
		}
	}
	if rate > 0 {
		s += fmt.Sprintf("  %s/s", size(rate))
	}
	if d := left(jobs, now); d > 0 {
		s += "  about " + span(d) + " left"
	}
	return s
}

// left estimates how long it takes until all jobs have ended, from how long those took that are done; before any is, from
// how far those are that work. Zero means that nothing can be said.
func left(jobs []api.Job, now time.Time) time.Duration {
	var took time.Duration
	n, working, waiting := 0, 0, 0
	eta := func(j api.Job) time.Duration { return time.Duration(j.ETAMS) * time.Millisecond }
	for _, j := range jobs {
		if j.Phase == api.PhaseDone && j.Started != nil && j.Ended != nil {
			took += j.Ended.Sub(*j.Started)
			n++
		}
	}
	if n == 0 {
		for _, j := range jobs {
			if j.Active && j.ETAMS > 0 && j.Started != nil {
				took += now.Sub(*j.Started) + eta(j)
				n++
			}
		}
	}
	if n == 0 {
		return 0
	}
	mean := took / time.Duration(n)
	var rest, longest time.Duration
	for _, j := range jobs {
		switch {
		case !j.Active:
		case j.Phase == api.PhaseQueued:
			waiting++
			rest += mean
			longest = max(longest, mean)
		default:
			working++
			d := eta(j)
			if j.Started != nil {
				d = max(d, mean-now.Sub(*j.Started))
			}
			rest += d
			longest = max(longest, d)
		}
	}
	if waiting == 0 {
		return longest
	}
	return max(longest, rest/time.Duration(max(1, working)))
}

// numbers says how far a job is: percent, bytes, rate, time left.
func numbers(j api.Job) string {
	if j.Waiting != "" {
		return j.Waiting
	}
	if j.Total <= 0 || !j.Active {
		return took(j)
	}
	s := fmt.Sprintf("%3d %%  %s of %s", j.Done*100/j.Total, size(j.Done), size(j.Total))
	if j.Rate > 0 {
		s += fmt.Sprintf("  %s/s", size(j.Rate))
	}
	if j.ETAMS > 0 {
		s += "  " + ms(j.ETAMS) + " left"
	}
	return s
}
