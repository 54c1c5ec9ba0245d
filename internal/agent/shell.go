package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/console"
	"mimeo/internal/agent/identity"
	"mimeo/internal/cluster/api"
)

const (
	authorizedKeys = "/root/.ssh/authorized_keys"
	sshdDir        = "/run/mimeo/ssh"
)

// shells are the ways into the stateless image for a person.
type shells struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// stop ends all of them, with those who are signed in.
func (s *shells) stop() {
	if s != nil {
		s.cancel()
		s.wg.Wait()
	}
}

// shell offers a login by ssh, for the given keys, and one on each serial or other console. The second time it only
// renews the keys.
func (a *agent) shell(t api.Task) {
	if !a.Own {
		if a.shells == nil {
			a.shells = &shells{cancel: func() {}}
			a.Log("this agent is a guest on its system and offers no shell")
		}
		return
	}
	if err := writeKeys(t.SSHKeys); err != nil {
		a.Log("%v", err)
	}
	if a.shells != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.shells = &shells{cancel: cancel}
	for _, tty := range console.Active() {
		if tty == "tty0" {
			tty = "tty1" // the one that is in front
		}
		a.shells.wg.Go(func() { a.respawn(ctx, "shell on "+tty, func() (*exec.Cmd, io.Closer, error) { return ttyShell(tty) }) })
	}
	if len(t.SSHKeys) == 0 {
		a.Log("shell on the console only: no ssh key was given")
		return
	}
	if server, err := sshServer(); err != nil {
		a.Log("no ssh: %v", err)
	} else {
		a.shells.wg.Go(func() { a.respawn(ctx, "ssh server", server) })
	}
}

// starter prepares a program, and a file of its that is closed once it runs.
type starter func() (*exec.Cmd, io.Closer, error)

// respawn runs a program again and again until ctx ends, and then ends it and what it started.
func (a *agent) respawn(ctx context.Context, what string, start starter) {
	for ctx.Err() == nil {
		cmd, file, err := start()
		if err == nil {
			err = cmd.Start()
		}
		if file != nil {
			file.Close() // the program has its own
		}
		if err != nil {
			a.Log("%s: %v", what, err)
			if sleep(ctx, 10*time.Second) != nil {
				return
			}
			continue
		}
		stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		err = cmd.Wait()
		stop()
		if err != nil && ctx.Err() == nil {
			a.Log("%s ended: %v", what, err)
		}
		sleep(ctx, time.Second)
	}
}

// ttyShell is a login shell of root on a terminal, in a session of its own.
func ttyShell(tty string) (*exec.Cmd, io.Closer, error) {
	f, err := os.OpenFile("/dev/"+tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	// The kernel's own settings are for output only: a person needs echo and editing.
	if t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		t.Iflag |= unix.ICRNL | unix.IXON
		t.Oflag |= unix.OPOST | unix.ONLCR
		t.Lflag |= unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag |= unix.CREAD | unix.CLOCAL
		unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	shell := "/bin/bash"
	if _, err := os.Stat(shell); err != nil {
		shell = "/bin/sh"
	}
	cmd := exec.Command(shell)
	cmd.Args = []string{"-" + filepath.Base(shell)} // the hyphen makes it a login shell
	cmd.Dir = "/root"
	if _, err := os.Stat(cmd.Dir); err != nil {
		cmd.Dir = "/"
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=" + shell, "LANG=C.UTF-8", "TERM=linux"}
	if strings.HasPrefix(tty, "ttyS") || strings.HasPrefix(tty, "ttyAMA") || strings.HasPrefix(tty, "hvc") {
		cmd.Env[len(cmd.Env)-1] = "TERM=vt220"
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	return cmd, f, nil
}

// writeKeys keeps those who may sign in as root.
func writeKeys(keys []string) error {
	if err := os.MkdirAll(filepath.Dir(authorizedKeys), 0o700); err != nil {
		return fmt.Errorf("keep ssh keys: %w", err)
	}
	if err := os.WriteFile(authorizedKeys, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep ssh keys: %w", err)
	}
	return nil
}

// sshServer returns how to start the ssh server of the stateless image, OpenSSH's or Dropbear, with keys made now.
// Passwords are not accepted.
func sshServer() (starter, error) {
	if path, err := exec.LookPath("sshd"); err == nil {
		if err := os.MkdirAll(sshdDir, 0o700); err != nil {
			return nil, err
		}
		host, _ := os.Hostname() // only a comment
		key := filepath.Join(sshdDir, "host_key")
		if err := identity.WriteHostKey(key, "ed25519", host); err != nil {
			return nil, err
		}
		conf := filepath.Join(sshdDir, "config")
		text := "HostKey " + key + "\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nAuthorizedKeysFile " + authorizedKeys + "\nPidFile none\n"
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		os.MkdirAll("/run/sshd", 0o755) // its privilege separation folder
		return sessionOf(path, "-D", "-e", "-f", conf), nil
	}
	if path, err := exec.LookPath("dropbear"); err == nil {
		if err := os.MkdirAll("/etc/dropbear", 0o700); err != nil {
			return nil, err
		}
		return sessionOf(path, "-F", "-E", "-R", "-s"), nil // -R makes keys when they are needed, -s: no passwords
	}
	return nil, errors.New("the stateless image has neither sshd nor dropbear")
}

func sessionOf(path string, args ...string) starter {
	return func() (*exec.Cmd, io.Closer, error) {
		cmd := exec.Command(path, args...)
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd, nil, nil
	}
}
