package boot_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"context"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/tftp"
	"mimeo/internal/cluster/node"
)

// laps are how long each step of a machine's boot took.
type laps struct {
	mu   sync.Mutex
	step map[string][]time.Duration
	keys []string
}

func (l *laps) add(step string, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.step == nil {
		l.step = map[string][]time.Duration{}
	}
	if l.step[step] == nil {
		l.keys = append(l.keys, step)
	}
	l.step[step] = append(l.step[step], d)
}

// at is the latency that a share of the machines did not exceed.
func (l *laps) at(step string, share float64) time.Duration {
	all := slices.Sorted(slices.Values(l.step[step]))
	return all[min(len(all)-1, int(share*float64(len(all))))]
}

func (l *laps) log(t *testing.T) {
	t.Helper()
	for _, k := range l.keys {
		t.Logf("%-28s p50 %6d ms  p90 %6d ms  p99 %6d ms  longest %6d ms", k, l.at(k, .5).Milliseconds(), l.at(k, .9).Milliseconds(), l.at(k, .99).Milliseconds(), l.at(k, 1).Milliseconds())
	}
}

// rush boots n machines at once, each from power-on to its kernel, and gives what the steps took.
func rush(t *testing.T, n int, loss float64, loader, kernel []byte, tftpTimeout time.Duration) *laps {
	t.Helper()
	s := newSite(t, dhcp.Full)
	h := newHall(t, loss)
	var all []*machine
	for i := range n {
		m := &machine{hall: h, mac: fmt.Sprintf("52:54:00:77:05:%02x", i), fw: firmwares[0], try: time.Second}
		if loss > 0 {
			m.try = 250 * time.Millisecond
		}
		s.nodes[m.mac] = node.Node{Name: node.Name(fmt.Sprintf("n%03d", i)), NICs: []node.NIC{{MAC: m.mac, IP: fmt.Sprintf("10.77.0.%d", 20+i)}}, Boot: node.BootDisk}
		all = append(all, m)
	}
	tf := &tftp.Server{Addr: "10.77.0.1:69", Interface: "br0", Timeout: tftpTimeout, Open: func(context.Context, tftp.Request) (tftp.File, error) { return tftp.Bytes(loader), nil }}
	if err := tf.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tf.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/boot/ipxe/") {
			fmt.Fprintln(w, "#!ipxe")
			return
		}
		w.Write(kernel)
	}))
	s.serve(t)
	l := &laps{}
	var wg sync.WaitGroup
	for _, m := range all {
		wg.Go(func() {
			if err := m.boot(l, loader, kernel); err != nil {
				t.Errorf("%s: %v", m.mac, err)
			}
		})
	}
	wg.Wait()
	return l
}

// boot is a BIOS that loads iPXE, which loads a kernel.
func (m *machine) boot(l *laps, loader, kernel []byte) error {
	start := time.Now()
	lap := start
	step := func(name string) {
		l.add(name, time.Since(lap))
		lap = time.Now()
	}
	ack, err := m.configure()
	if err != nil {
		return err
	}
	if err := m.up(); err != nil {
		return err
	}
	step("DHCP of the firmware")
	b, err := m.load(bootFile(ack), ack.ServerIPAddr)
	if err != nil || !bytes.Equal(b, loader) {
		return fmt.Errorf("loader %s: %d bytes, %w", bootFile(ack), len(b), err)
	}
	step("loader by TFTP")
	m.fw = firmwares[6]
	if ack, err = m.configure(); err != nil {
		return err
	}
	step("DHCP of iPXE")
	if b, err = m.load(bootFile(ack), ack.ServerIPAddr); err != nil || !strings.HasPrefix(string(b), "#!ipxe") {
		return fmt.Errorf("script %s: %q, %w", bootFile(ack), b, err)
	}
	step("script by HTTP")
	if b, err = m.load(base+"/kernel", nil); err != nil || len(b) != len(kernel) {
		return fmt.Errorf("kernel: %d bytes, %w", len(b), err)
	}
	step("kernel by HTTP")
	l.add("power-on to kernel", time.Since(start))
	return nil
}

// TestFiftyNodesAtOnce has 50 machines switched on at the same moment; none of them has to wait for all the others.
func TestFiftyNodesAtOnce(t *testing.T) {
	l := rush(t, 50, 0, bytes.Repeat([]byte("loader"), 12_000), bytes.Repeat([]byte("kernel"), 1<<20), 0)
	l.log(t)
	if t.Failed() {
		return
	}
	if most := l.at("power-on to kernel", 1); most > 30*time.Second {
		t.Errorf("the last machine took %v", most)
	}
	for _, k := range []string{"DHCP of the firmware", "DHCP of iPXE"} {
		if most := l.at(k, 1); most > 5*time.Second {
			t.Errorf("%s took %v for the last machine", k, most)
		}
	}
}

// TestLossyNetwork boots machines where one packet in ten is lost on its way to the machine, and one in ten from it.
func TestLossyNetwork(t *testing.T) {
	l := rush(t, 8, 0.1, bytes.Repeat([]byte("loader"), 3_000), []byte("kernel"), 250*time.Millisecond)
	l.log(t)
}
