package ipmi

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"mimeo/internal/manage/power"
)

// Times of a line, as multiples of Options.Wait (1 s).
const (
	solIdle   = 15 // without a packet of the BMC, until it is asked whether the console is still ours; it forgets idle sessions after 60
	solProbes = 8  // that go unanswered, one each Wait, until the line is lost
	solSends  = 14 // of one packet, one each half Wait, likewise
	solQueue  = 64 // packets for who receives; while it is full the BMC's are not acknowledged, and come again
)

// Line is an open serial console. Receive and Send may be called from two goroutines; Close ends both.
type Line struct {
	s    *session
	conn net.Conn
	host string
	wait time.Duration
	max  int // characters in a packet

	out    chan received
	writes chan *write
	stop   chan struct{} // closed by Close
	ended  chan struct{} // closed when the loop has ended; then err is set
	err    error
	polite bool // the BMC still knows the session
	close  sync.Once
	work   sync.WaitGroup

	// What follows belongs to the loop.
	input   solInput
	newest  uint32 // session sequence number of a SOL packet
	seq     byte   // of our last packet with characters
	flight  *write
	sent    int       // how often it was sent
	resend  time.Time // when it is sent again
	heard   time.Time
	probe   []byte // the message that was sent, nil where none is
	probed  int
	again   time.Time // when it is sent again
	owner   []byte    // what the BMC said of the console's owner at first
	unknown bool      // it does not say that
}

type received struct {
	data []byte
	note string
}

// write is characters, or a break, on their way to the machine.
type write struct {
	data  []byte
	brk   bool
	seq   byte // of the packet that carries it, 0 before it was sent
	taken chan struct{}
}

func newLine(s *session, conn net.Conn, host string, wait time.Duration, limit int) *Line {
	l := &Line{s: s, conn: conn, host: host, wait: wait, max: limit, out: make(chan received, solQueue), writes: make(chan *write),
		stop: make(chan struct{}), ended: make(chan struct{}), polite: true, heard: time.Now()}
	conn.SetReadDeadline(time.Time{}) // the session left one
	packets := make(chan []byte, 8)
	l.work.Go(func() { l.read(packets) })
	l.work.Go(func() { l.loop(packets) })
	return l
}

// Receive returns the next characters of the machine, or a note of what happened on the line ("the machine sent a
// break"). Its error says why the line has ended.
func (l *Line) Receive(ctx context.Context) (data []byte, note string, err error) {
	select {
	case r := <-l.out:
		return r.data, r.note, nil
	default:
	}
	select {
	case r := <-l.out:
		return r.data, r.note, nil
	case <-l.ended:
		select {
		case r := <-l.out:
			return r.data, r.note, nil
		default:
			return nil, "", l.err
		}
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

// Send returns when the BMC has taken all of data. What was not taken when ctx ends may still arrive.
func (l *Line) Send(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		n := min(l.max, len(data))
		if err := l.put(ctx, &write{data: append([]byte(nil), data[:n]...)}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Break sends the machine a break.
func (l *Line) Break(ctx context.Context) error { return l.put(ctx, &write{brk: true}) }

func (l *Line) put(ctx context.Context, w *write) error {
	w.taken = make(chan struct{})
	select {
	case l.writes <- w:
	case <-l.ended:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-w.taken:
		return nil
	case <-l.ended:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close gives the console back and ends the session.
func (l *Line) Close() error {
	l.close.Do(func() {
		close(l.stop)
		<-l.ended
		l.conn.SetReadDeadline(time.Unix(1, 0))
		l.work.Wait()
		if l.polite {
			ctx, cancel := context.WithTimeout(context.Background(), 2*l.wait)
			defer cancel()
			l.s.sends = idleSends
			l.s.call(ctx, fnApp, cmdDeactivate, []byte{payloadSOL, solInstance, 0, 0, 0, 0})
			l.s.close(ctx)
		}
		l.conn.Close()
	})
	return nil
}

// read passes packets on until the loop ends.
func (l *Line) read(packets chan<- []byte) {
	buf := [maxPacket]byte{}
	for {
		n, err := l.conn.Read(buf[:])
		if err != nil {
			select {
			case <-l.ended:
				return
			case <-time.After(l.wait / 4): // "connection refused", while the BMC restarts
			}
			continue
		}
		select {
		case packets <- append([]byte(nil), buf[:n]...):
		case <-l.ended:
			return
		}
	}
}

const taken = "somebody else may have taken it; --force takes it back"

var errClosed = errors.New("the console was closed")

// loop runs the conversation. It ends when the line is lost or closed.
func (l *Line) loop(packets <-chan []byte) {
	defer close(l.ended)
	l.startProbe()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for l.err == nil {
		timer.Reset(time.Until(l.next()))
		writes := l.writes
		if l.flight != nil {
			writes = nil // one at a time (15.11)
		}
		select {
		case raw := <-packets:
			l.take(raw)
		case w := <-writes:
			l.launch(w)
		case <-timer.C:
		case <-l.stop:
			l.err = errClosed
			return
		}
		l.tick(time.Now())
	}
}

// next is when something is due.
func (l *Line) next() time.Time {
	at := l.heard.Add(solIdle * l.wait)
	if l.probe != nil {
		at = l.again
	}
	if l.flight != nil && l.resend.Before(at) {
		at = l.resend
	}
	return at
}

// tick does what is due.
func (l *Line) tick(now time.Time) {
	if l.err != nil {
		return
	}
	if l.flight != nil && !now.Before(l.resend) {
		if l.sent >= solSends {
			l.silent()
			return
		}
		l.transmit()
	}
	switch {
	case l.probe == nil && now.Sub(l.heard) >= solIdle*l.wait:
		l.startProbe()
	case l.probe != nil && !now.Before(l.again):
		if l.probed >= solProbes {
			l.silent()
			return
		}
		l.sendProbe()
	}
}

func (l *Line) silent() {
	l.polite = false
	l.lose(power.ErrUnreachable, "does not answer any more (serial console)", "it may restart, or be cut off")
}

func (l *Line) lose(kind error, text, hint string) {
	l.err = &power.Error{Kind: kind, BMC: l.host, Text: text, Hint: hint}
}

// send seals and sends a payload. What cannot be sent is sent again later, as what was lost.
func (l *Line) send(kind byte, payload []byte) {
	l.s.seq++
	l.conn.Write(l.s.seal(kind, l.s.id, l.s.seq, payload))
}

// startProbe asks which session has the console. That keeps ours alive, too.
func (l *Line) startProbe() {
	l.s.rq = (l.s.rq + 1) & 0x3f
	if l.unknown {
		l.probe = request(l.s.rq, fnApp, cmdPayloadStatus, []byte{payloadSOL})
	} else {
		l.probe = request(l.s.rq, fnApp, cmdPayloadInstance, []byte{payloadSOL, solInstance})
	}
	l.probed = 0
	l.sendProbe()
}

func (l *Line) sendProbe() {
	l.probed++
	l.again = time.Now().Add(l.wait)
	l.send(payloadIPMI, l.probe)
}

// launch begins to send characters or a break.
func (l *Line) launch(w *write) {
	l.flight, l.sent = w, 0
	l.seq = l.seq%15 + 1
	w.seq = l.seq
	l.transmit()
}

func (l *Line) transmit() {
	p := solPacket{seq: l.flight.seq, data: l.flight.data}
	if l.flight.brk {
		p.status = solBreak
	}
	l.sent++
	l.resend = time.Now().Add(l.wait / 2)
	l.send(payloadSOL, p.bytes())
}

// take looks at a packet. What is not the BMC's, or came twice, is dropped.
func (l *Line) take(raw []byte) {
	p, err := parsePacket(raw)
	if err != nil || p.id != l.s.ours || p.kind != payloadIPMI && p.kind != payloadSOL {
		return
	}
	plain, err := l.s.open(p)
	if err != nil || !l.s.fresh(p.seq) {
		return
	}
	l.heard = time.Now()
	if p.kind == payloadSOL {
		// One that was overtaken was also sent again since: its characters would come twice.
		if p.seq < l.newest {
			return
		}
		l.newest = p.seq
		if sp, ok := parseSOL(plain); ok {
			l.takeSOL(sp)
		}
		return
	}
	if l.probe != nil {
		l.takeAnswer(plain)
	}
}

// takeAnswer looks at the answer to a probe.
func (l *Line) takeAnswer(m []byte) {
	cmd := l.probe[5]
	code, data, ok := parseResponse(m, l.s.rq, fnApp, cmd)
	if !ok {
		return
	}
	l.probe = nil
	if cmd == cmdPayloadStatus {
		// Capacity, then a bit for each instance.
		if code == 0 && len(data) >= 2 && data[1]&1 == 0 {
			l.lose(power.ErrTaken, "has ended the serial console", taken)
		}
		return
	}
	if code != 0 || len(data) < 4 || binary.LittleEndian.Uint32(data) == 0 && l.owner == nil {
		l.unknown = true
		return
	}
	if l.owner == nil {
		l.owner = append([]byte(nil), data[:4]...)
	}
	if string(l.owner) != string(data[:4]) {
		l.lose(power.ErrTaken, "has given the serial console to another session", taken)
	}
}

// takeSOL looks at a SOL packet: what it acknowledges, what it says, what it carries.
func (l *Line) takeSOL(p solPacket) {
	if w := l.flight; w != nil && p.ack == w.seq {
		l.acknowledged(w, p)
	}
	if p.status&solEnding != 0 {
		l.lose(power.ErrTaken, "has ended the serial console", taken)
		return
	}
	if p.seq == 0 {
		return
	}
	// Nobody takes more just now: without an acknowledgement the BMC sends it again. Two places are for notes.
	if len(l.out) >= solQueue-2 {
		return
	}
	again := p.seq == l.input.seq
	if data := l.input.fresh(p); len(data) > 0 {
		l.out <- received{data: append([]byte(nil), data...)}
	}
	if !again && p.status&solOverrun != 0 {
		l.out <- received{note: "the BMC lost characters of the machine"}
	}
	if !again && p.status&solBroke != 0 {
		l.out <- received{note: "the machine sent a break"}
	}
	l.send(payloadSOL, solPacket{ack: p.seq, count: byte(len(p.data))}.bytes())
}

// acknowledged goes on after the BMC has taken what is in flight, or a part of it. The rest goes in a packet of its
// own, later where the BMC cannot take it now.
func (l *Line) acknowledged(w *write, p solPacket) {
	n := min(int(p.count), len(w.data))
	if n == len(w.data) && p.status&solNACK == 0 {
		l.flight = nil
		close(w.taken)
		return
	}
	l.sent = 0 // the BMC is there
	w.data = w.data[n:]
	if len(w.data) == 0 && !w.brk {
		l.flight = nil
		close(w.taken)
		return
	}
	l.seq = l.seq%15 + 1
	w.seq = l.seq
	l.resend = time.Now().Add(l.wait / 4)
	if p.status&solNotNow != 0 {
		l.resend = time.Now().Add(l.wait)
	}
}
