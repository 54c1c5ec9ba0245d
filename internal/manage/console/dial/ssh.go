package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"mimeo/internal/manage/power"
)

const (
	sshSetup = 20 * time.Second // for the connection and the login
	sshAlive = 20 * time.Second // between two questions whether the BMC is there
)

// sshOptions say how to reach a console by SSH.
type sshOptions struct {
	host     string
	port     int
	user     string
	password string
	command  string // typed at first
	keyFile  string // the BMC's host key, which is learnt at the first time
	anyKey   bool   // accept any
}

// sshLine is a console.Line.
type sshLine struct {
	o       sshOptions
	client  *ssh.Client
	session *ssh.Session
	in      io.WriteCloser
	out     chan []byte
	err     error // set when out is closed
	writes  chan sshWrite
	stop    chan struct{}
	once    sync.Once
	work    sync.WaitGroup
}

func (o sshOptions) fail(kind error, text, hint string, cause error) error {
	return &power.Error{Kind: kind, BMC: o.host, Text: text, Hint: hint, Cause: cause}
}

func dialSSH(ctx context.Context, o sshOptions) (*sshLine, error) {
	ctx, cancel := context.WithTimeout(ctx, sshSetup)
	defer cancel()
	addr := net.JoinHostPort(o.host, strconv.Itoa(o.port))
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, o.fail(power.ErrUnreachable, "cannot be reached for its console", fmt.Sprintf("see whether TCP port %d can be reached from here, and SSH is switched on", o.port), err)
	}
	cut := context.AfterFunc(ctx, func() { conn.Close() })
	l, err := o.login(conn, addr)
	if !cut() && err == nil { // it was closed after all
		l.Close()
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (o sshOptions) login(conn net.Conn, addr string) (*sshLine, error) {
	var keyError error
	asked := 0
	config := &ssh.ClientConfig{
		User: o.user,
		Auth: []ssh.AuthMethod{ssh.Password(o.password), ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
			if asked++; asked > 1 && len(questions) > 0 {
				return nil, errors.New("it asks again") // a password too wrong too often locks the account
			}
			answers := make([]string, len(questions))
			for i := range answers {
				answers[i] = o.password
			}
			return answers, nil
		})},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			keyError = o.checkKey(key)
			return keyError
		},
		ClientVersion: "SSH-2.0-mimeo",
	}
	c, channels, requests, err := ssh.NewClientConn(conn, addr, config)
	switch {
	case keyError != nil:
		return nil, keyError
	case err != nil && asked > 0, err != nil && bytes.Contains([]byte(err.Error()), []byte("unable to authenticate")):
		return nil, o.fail(power.ErrDenied, fmt.Sprintf("refused user %q by SSH", o.user), "see whether this account may use SSH", nil)
	case err != nil:
		return nil, o.fail(power.ErrUnreachable, "does not speak SSH with us", "", err)
	}
	l := &sshLine{o: o, client: ssh.NewClient(c, channels, requests), out: make(chan []byte, 64), writes: make(chan sshWrite), stop: make(chan struct{})}
	if err := l.shell(); err != nil {
		l.client.Close()
		return nil, o.fail(power.ErrRefused, "opens no console by SSH", "", err)
	}
	return l, nil
}

// checkKey compares the BMC's host key with the one of the first time.
func (o sshOptions) checkKey(key ssh.PublicKey) error {
	if o.anyKey {
		return nil
	}
	now := ssh.MarshalAuthorizedKey(key)
	have, err := os.ReadFile(o.keyFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(o.keyFile), 0o700); err != nil {
			return fmt.Errorf("keep the BMC's SSH host key: %w", err)
		}
		if err := os.WriteFile(o.keyFile, now, 0o600); err != nil {
			return fmt.Errorf("keep the BMC's SSH host key: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read the BMC's SSH host key: %w", err)
	case !bytes.Equal(bytes.TrimSpace(have), bytes.TrimSpace(now)):
		return o.fail(power.ErrDenied, "has another SSH host key than before: "+ssh.FingerprintSHA256(key), fmt.Sprintf("somebody may be in between. Where the BMC was exchanged or set anew, remove %s on the management node", o.keyFile), nil)
	}
	return nil
}

// shell opens the session, types the command, and starts to read.
func (l *sshLine) shell() (err error) {
	if l.session, err = l.client.NewSession(); err != nil {
		return err
	}
	// Some BMCs have no terminals to give, and a console all the same.
	l.session.RequestPty("vt100", 25, 80, ssh.TerminalModes{})
	out, err := l.session.StdoutPipe()
	if err != nil {
		return err
	}
	if l.in, err = l.session.StdinPipe(); err != nil {
		return err
	}
	if err := l.session.Shell(); err != nil {
		return err
	}
	if l.o.command != "" {
		if _, err := io.WriteString(l.in, l.o.command+"\r"); err != nil {
			return err
		}
	}
	l.work.Go(func() { l.read(out) })
	l.work.Go(l.write)
	l.work.Go(l.alive)
	return nil
}

func (l *sshLine) read(out io.Reader) {
	defer close(l.out)
	for {
		buf := make([]byte, 4096)
		n, err := out.Read(buf)
		if n > 0 {
			select {
			case l.out <- buf[:n]:
			case <-l.stop:
				return
			}
		}
		if err != nil {
			l.err = l.o.fail(power.ErrUnreachable, "has ended the serial console", "", nil)
			return
		}
	}
}

// alive asks now and then whether the BMC is there. Any answer will do.
func (l *sshLine) alive() {
	tick := time.NewTicker(sshAlive)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		late := time.AfterFunc(sshAlive, func() { l.client.Close() })
		_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}

func (l *sshLine) Receive(ctx context.Context) ([]byte, string, error) {
	select {
	case b, ok := <-l.out:
		if !ok {
			return nil, "", l.err
		}
		return b, "", nil
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

func (l *sshLine) Send(ctx context.Context, data []byte) error {
	w := sshWrite{data: append([]byte(nil), data...), done: make(chan error, 1)}
	select {
	case l.writes <- w:
	case <-l.stop:
		return errors.New("the console was closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

type sshWrite struct {
	data []byte
	done chan error
}

func (l *sshLine) write() {
	for {
		select {
		case w := <-l.writes:
			_, err := l.in.Write(w.data)
			w.done <- err
		case <-l.stop:
			return
		}
	}
}

// Break asks for half a second's break (RFC 4335).
func (l *sshLine) Break(context.Context) error {
	ok, err := l.session.SendRequest("break", true, ssh.Marshal(struct{ Length uint32 }{500}))
	if err == nil && !ok {
		err = l.o.fail(power.ErrCannot, "does not take a break by SSH", "", nil)
	}
	return err
}

func (l *sshLine) Close() error {
	l.once.Do(func() {
		close(l.stop)
		l.session.Close()
		l.client.Close()
		l.work.Wait()
	})
	return nil
}
