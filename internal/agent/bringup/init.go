package bringup

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/console"
)

// Exit statuses of the agent that tell process 1 what to do. Any other end is a crash.
const (
	ExitReboot   = 10
	ExitPowerOff = 11
)

// A crashed agent is started again, and asks for its task anew. One that crashes over and over makes the node reboot,
// and the server counts its tries.
const (
	maxCrashes  = 3
	crashWindow = 10 * time.Minute
	crashPause  = 2 * time.Second // to be read
)

// Init is process 1 of the stateless image. It does not return.
func Init() {
	if _, err := readStage(); err != nil {
		fmt.Fprintln(os.Stderr, "mimeo-agent: error: this is no stateless image:", err)
		os.Exit(1)
	}
	log := console.Open().Printf
	if err := mountAll(kernelMounts); err != nil {
		log("%v", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGUSR2)
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // Ctrl-Alt-Del comes as SIGINT
	exits := make(chan exit, 16)
	go reap(exits)
	reboot(supervise(log, startAgent, func() { cleanUp(log) }, exits, signals), log)
}

// exit is the end of a child.
type exit struct {
	pid    int
	status unix.WaitStatus
}

// reap waits for all children, those that were left behind by others too, and passes on their ends. Nothing else in
// this process waits for any.
func reap(to chan<- exit) {
	for {
		var e exit
		pid, err := unix.Wait4(-1, &e.status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // no child at all
			time.Sleep(100 * time.Millisecond)
		default:
			e.pid = pid
			to <- e
		}
	}
}

// cleanUp undoes what an agent that crashed has left: postscripts, shells and tools that still run, and mounts. A disk
// that is mounted, or that a tool still writes to, could not be deployed to again.
func cleanUp(log func(string, ...any)) {
	unix.Kill(-1, unix.SIGKILL) // all but this process
	time.Sleep(100 * time.Millisecond)
	for _, err := range unmountAll() {
		log("%v", err)
	}
}

// supervise keeps the agent running until it or a signal says how to end. clean is called after each crash.
func supervise(log func(string, ...any), start func() (int, error), clean func(), exits <-chan exit, signals <-chan os.Signal) int {
	var crashes []time.Time
	for {
		pid, err := start()
		if err != nil {
			log("start the agent: %v", err)
			time.Sleep(crashPause)
			if crashes = append(crashes, time.Now()); len(crashes) >= maxCrashes {
				return unix.LINUX_REBOOT_CMD_RESTART
			}
			continue
		}
		status, sig := await(pid, exits, signals)
		switch {
		case sig == unix.SIGUSR2, status.Exited() && status.ExitStatus() == ExitPowerOff:
			return unix.LINUX_REBOOT_CMD_POWER_OFF
		case sig != nil, status.Exited() && status.ExitStatus() == ExitReboot:
			return unix.LINUX_REBOOT_CMD_RESTART
		}
		log("the agent ended: %s", describeStatus(status))
		clean()
		now := time.Now()
		for len(crashes) > 0 && now.Sub(crashes[0]) > crashWindow {
			crashes = crashes[1:]
		}
		if crashes = append(crashes, now); len(crashes) >= maxCrashes {
			log("that was the %dth time within %v; this node starts anew", len(crashes), crashWindow)
			time.Sleep(crashPause)
			return unix.LINUX_REBOOT_CMD_RESTART
		}
		time.Sleep(crashPause)
	}
}

// await returns how the child pid ended, or the signal that came first.
func await(pid int, exits <-chan exit, signals <-chan os.Signal) (unix.WaitStatus, os.Signal) {
	for {
		select {
		case e := <-exits:
			if e.pid == pid {
				return e.status, nil
			}
		case s := <-signals:
			return 0, s
		}
	}
}

func describeStatus(s unix.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// startAgent starts the agent as a child in a session of its own.
func startAgent() (int, error) {
	return syscall.ForkExec(AgentPath, []string{"mimeo-agent", "system"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=linux"},
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// reboot ends all processes, unmounts what holds data, and tells the kernel. It does not return.
func reboot(how int, log func(string, ...any)) {
	unix.Kill(-1, unix.SIGTERM) // all but this process
	time.Sleep(300 * time.Millisecond)
	unix.Kill(-1, unix.SIGKILL)
	time.Sleep(100 * time.Millisecond)
	// A sync waits for ever on a disk or NFS server that is gone; the reboot must not.
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		for _, err := range unmountAll() {
			log("%v", err)
		}
		unix.Sync()
	}()
	select {
	case <-synced:
	case <-time.After(time.Minute):
		log("a disk or an NFS server does not answer; rebooting all the same")
	}
	for {
		if err := unix.Reboot(how); err != nil {
			log("reboot: %v", err)
		}
		time.Sleep(10 * time.Second)
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
}
