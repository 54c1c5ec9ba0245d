package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

// consoleSilence is how long the server may be quiet; it says something every 10 s.
const consoleSilence = 45 * time.Second

// consoleOptions are how a console is attached.
type consoleOptions struct {
	watch, share, force bool
	escape              string
	expect              string
	timeout             time.Duration
}

func consoleCmd(t *terminal) *cobra.Command {
	var o consoleOptions
	var play replayOptions
	var replay bool
	c := &cobra.Command{
		Use:   "console NODE",
		Short: "Attach to a node's serial console, or replay what it showed",
		Long: `Attach to a node's serial console, through its BMC: by IPMI Serial over LAN, or
as its Redfish service says (SSH or IPMI). What came last is shown first. Any
number of people may be attached; one types, and another one too with --share.

At the beginning of a line, ~ begins what is for mimeo and not for the node:

  ~.   leave          ~B   send a break        ~^Z  suspend mimeo
  ~?   help           ~~   send a ~

What comes is logged while somebody is attached, or always: see "console" in
the configuration of mimeod, and "mimeo node set NODE label.console.log=all".
--replay plays the log as it was then, with long pauses made short; with --plain
it is printed as text with the times of its lines.

Where standard input is no terminal, what it holds is typed, and mimeo stays
attached after its end. With --expect it leaves when a line matches.`,
		Example: `  mimeo console n07
  mimeo console n07 --watch                          # look on, type nothing
  mimeo console n07 --replay --since 10m --speed 4
  mimeo console n07 --replay --plain | grep -i error
  mimeo console n07 --watch --expect 'login:' --timeout 5m`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"since", "speed", "plain", "max-pause"} {
				if !replay && cmd.Flags().Changed(name) {
					return usagef("--%s is for --replay", name)
				}
			}
			if replay {
				for _, name := range []string{"watch", "share", "force", "escape", "expect", "timeout"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s is not for --replay", name)
					}
				}
				play.paced = cmd.Flags().Changed("speed") || isTTY(t.out)
				return t.replayConsole(cmd.Context(), args[0], play)
			}
			if t.json {
				return usagef("--json is for --replay only")
			}
			return t.console(cmd.Context(), args[0], o)
		},
	}
	f := c.Flags()
	f.BoolVarP(&o.watch, "watch", "w", false, "look on, and type nothing")
	f.BoolVar(&o.share, "share", false, "type, although somebody else does")
	f.BoolVar(&o.force, "force", false, "take the line from whoever else has it in the BMC")
	f.StringVarP(&o.escape, "escape", "e", "~", "the `character` that begins what is for mimeo, or none; ^X is Control-X")
	f.StringVar(&o.expect, "expect", "", "leave when what comes matches the `regular expression`")
	f.DurationVar(&o.timeout, "timeout", 0, "leave after so long; with --expect that is a failure")
	f.BoolVar(&replay, "replay", false, "play what was logged")
	f.StringVar(&play.since, "since", "", "replay: from so long ago (10m), or from a `time` on (2026-03-04 05:06)")
	f.Float64Var(&play.speed, "speed", 1, "replay: so many times as fast")
	f.DurationVar(&play.maxPause, "max-pause", 2*time.Second, "replay: make longer pauses this long; 0 leaves them")
	f.BoolVar(&play.plain, "plain", false, "replay: text, with the time before each line")
	return c
}

// console attaches until one side leaves.
func (t *terminal) console(ctx context.Context, name string, o consoleOptions) error {
	esc, err := parseEscape(o.escape)
	if err != nil {
		return err
	}
	var expect *regexp.Regexp
	if o.expect != "" {
		if expect, err = regexp.Compile(o.expect); err != nil {
			return usagef("--expect: %v", err)
		}
	}
	if o.watch && (o.share || o.force) {
		return usagef("--share and --force are for who types, not with --watch")
	}
	c, err := connect()
	if err != nil {
		return err
	}
	method, query := http.MethodPost, url.Values{}
	if o.watch {
		method = http.MethodGet
	}
	for k, v := range map[string]bool{"share": o.share, "force": o.force} {
		if v {
			query.Set(k, "1")
		}
	}
	path := "/v1/nodes/" + url.PathEscape(name) + "/console"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	conn, err := c.Upgrade(ctx, method, path, api.ConsoleProtocol)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &consoleSession{t: t, node: name, conn: conn, out: bufio.NewWriter(t.out), frames: make(chan consoleFrame), cont: make(chan os.Signal, 1), expect: expect, escape: esc, watch: o.watch, timeout: o.timeout}
	return s.run(ctx)
}

// consoleFrame is one of the server's, or why there are no more.
type consoleFrame struct {
	kind api.FrameKind
	data []byte
	err  error
}

// consoleSession is one attachment.
type consoleSession struct {
	t       *terminal
	node    string
	conn    io.ReadWriteCloser
	out     *bufio.Writer
	frames  chan consoleFrame
	expect  *regexp.Regexp
	recent  []byte // that expect looks at
	escape  escape
	watch   bool
	timeout time.Duration

	raw     *rawTerminal   // nil where this is no terminal
	cont    chan os.Signal // SIGCONT
	pending []consoleFrame // to the server
	bytes   int            // of them
}

// errLeft says that the user has left.
var errLeft = errors.New("left")

// maxPending is how much that was typed waits for the server. More is dropped where a person types, and waited for else.
const maxPending = 64 << 10

func (s *consoleSession) run(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	go s.receive(done)
	send := make(chan consoleFrame)
	go s.send(send, done)

	if isTTY(s.t.in) && isTTY(s.t.out) {
		raw, err := makeRaw(s.t.in.(*os.File))
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		s.raw = raw
		defer raw.restore()
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(hup)
	signal.Notify(s.cont, syscall.SIGCONT)
	defer signal.Stop(s.cont)
	input := make(chan []byte)
	if s.raw != nil || !s.watch {
		go readInput(s.t.in, input, done)
	}
	var late <-chan time.Time
	if s.timeout > 0 {
		late = time.After(s.timeout)
	}
	quiet := time.NewTimer(consoleSilence)
	defer quiet.Stop()
	for {
		in, out := input, chan<- consoleFrame(nil)
		var next consoleFrame
		if len(s.pending) > 0 {
			out, next = send, s.pending[0]
		}
		if s.raw == nil && s.bytes >= maxPending {
			in = nil
		}
		var err error
		select {
		case f := <-s.frames:
			quiet.Reset(consoleSilence)
			err = s.show(f)
		case b, more := <-in:
			if !more {
				input = nil
				continue
			}
			err = s.typed(b)
		case out <- next:
			s.pending = s.pending[1:]
			s.bytes -= len(next.data)
		case <-quiet.C:
			err = &api.Error{Code: "unreachable", Message: "the management node is silent", Hint: "attach again"}
		case <-late:
			err = errLeft
			if s.expect != nil {
				err = &api.Error{Code: "timeout", Message: fmt.Sprintf("the console of %s did not show %q within %v", s.node, s.expect, s.timeout), Hint: fmt.Sprintf(`see what it showed with "mimeo console %s --replay --plain"`, s.node)}
			}
		case <-hup:
			err = errLeft
		case <-s.cont: // the shell may have changed the terminal meanwhile
			if s.raw != nil {
				s.raw.again()
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil {
			continue
		}
		s.out.Flush()
		if errors.Is(err, errLeft) {
			s.note("left the console of " + s.node)
			return nil
		}
		if s.raw != nil {
			fmt.Fprint(s.t.err, "\r\n")
		}
		return err
	}
}

// receive reads the server's frames.
func (s *consoleSession) receive(done <-chan struct{}) {
	r := bufio.NewReader(s.conn)
	for {
		kind, b, err := api.ReadFrame(r, api.MaxFrame)
		select {
		case s.frames <- consoleFrame{kind, b, err}:
		case <-done:
			return
		}
		if err != nil {
			return
		}
	}
}

// send writes frames to the server.
func (s *consoleSession) send(frames <-chan consoleFrame, done <-chan struct{}) {
	for {
		select {
		case f := <-frames:
			if err := api.WriteFrame(s.conn, f.kind, f.data); err != nil {
				return // receive tells why, too, and after what is still to be read
			}
		case <-done:
			return
		}
	}
}

// show does what a frame asks for.
func (s *consoleSession) show(f consoleFrame) error {
	if f.err != nil {
		return &api.Error{Code: "unreachable", Message: "the connection to the management node broke off: " + f.err.Error(), Hint: "attach again"}
	}
	switch f.kind {
	case api.FrameHello:
		var h api.ConsoleHello
		if err := json.Unmarshal(f.data, &h); err != nil {
			return fmt.Errorf("read the server's greeting: %w", err)
		}
		text := fmt.Sprintf("the console of %s, by %s", h.Node, h.Way)
		if !h.Write {
			text += ", to watch"
		}
		if len(h.Others) > 0 {
			text += "; attached too: " + strings.Join(h.Others, ", ")
		}
		if s.raw != nil && s.escape.on {
			text += fmt.Sprintf(". Leave with %s. (help: %s?)", s.escape, s.escape)
		}
		s.note(text)
	case api.FramePast:
		s.out.Write(f.data)
	case api.FrameOut:
		s.out.Write(f.data)
		if s.expect != nil {
			s.recent = append(s.recent, f.data...)
			s.recent = s.recent[max(0, len(s.recent)-api.MaxFrame):]
			if s.expect.Match(s.recent) {
				return errLeft
			}
		}
	case api.FrameNote:
		var n api.ConsoleNote
		if err := json.Unmarshal(f.data, &n); err != nil {
			return fmt.Errorf("read the server's note: %w", err)
		}
		if n.Skipped > 0 {
			n.Text = fmt.Sprintf("%s skipped, as this terminal did not keep up; the log has it", size(n.Skipped))
		}
		s.note(printable(n.Text))
	case api.FrameEnd:
		e := &api.Error{}
		if json.Unmarshal(f.data, e) != nil || e.Message == "" {
			e = &api.Error{Code: "internal", Message: "the server has ended the console"}
		}
		return e
	}
	return s.out.Flush()
}

// note tells the user something beside what the node shows.
func (s *consoleSession) note(text string) {
	s.out.Flush()
	if s.raw != nil {
		fmt.Fprintf(s.t.err, "\r\n[mimeo: %s]\r\n", text)
		return
	}
	fmt.Fprintf(s.t.err, "mimeo: %s\n", text)
}

// queue sends frames when it can.
func (s *consoleSession) queue(kind api.FrameKind, b []byte) {
	if s.watch {
		return
	}
	if s.raw != nil && s.bytes+len(b) > maxPending {
		fmt.Fprint(s.t.err, "\a")
		return
	}
	for {
		n := min(len(b), api.MaxConsoleInput)
		s.pending = append(s.pending, consoleFrame{kind: kind, data: bytes.Clone(b[:n])})
		s.bytes += n
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
}

// typed takes what the user typed.
func (s *consoleSession) typed(b []byte) error {
	if s.raw == nil {
		s.queue(api.FrameIn, b)
		return nil
	}
	if s.watch && bytes.IndexByte(b, 0x03) >= 0 { // Control-C: there is nobody else it could be for
		return errLeft
	}
	var err error
	s.escape.feed(b, func(b []byte) { s.queue(api.FrameIn, b) }, func(c byte) {
		switch c {
		case '.':
			err = errLeft
		case 'B':
			s.queue(api.FrameBreak, nil)
		case 0x1a:
			s.suspend()
		case '?':
			e := s.escape.String()
			s.note(fmt.Sprintf("%s. leave, %sB send a break, %s^Z suspend, %s%s send %s, %s? this help; only at the beginning of a line", e, e, e, e, e, e, e))
		}
	})
	return err
}

// suspend stops this program as Control-Z does others.
func (s *consoleSession) suspend() {
	s.raw.restore()
	syscall.Kill(os.Getpid(), syscall.SIGTSTP)
	// It stops a moment later, unless no shell is there to let it go on.
	select {
	case <-s.cont:
	case <-time.After(300 * time.Millisecond):
	}
	s.raw.again()
}

// readInput passes on what is typed. A read that waits is left behind at the end: the program ends then, too.
func readInput(in io.Reader, out chan<- []byte, done <-chan struct{}) {
	defer close(out)
	for {
		b := make([]byte, 4096)
		n, err := in.Read(b)
		if n > 0 {
			select {
			case out <- b[:n]:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}
