package open

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

const (
	manyNodes = 400
	latency   = 500 * time.Millisecond // before each answer of a BMC
)

// rack makes nodes with a virtual BMC each, on a loopback address of its own, and a pool as the server has it.
func rack(tb testing.TB, scheme string) ([]node.Node, func() *power.Pool) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	tb.Cleanup(func() {
		cancel()
		served.Wait()
	})
	cert := certificate(tb)
	var nodes []node.Node
	for i := range manyNodes {
		b := vbmc.New(powertest.NewMachine(), "ops", "secret")
		b.Latency = latency
		host := fmt.Sprintf("127.77.%d.%d", i/200, 1+i%200)
		n := node.Node{Name: node.Name(fmt.Sprintf("n%03d", i)), BMC: node.BMC{URL: scheme + "://", User: "ops", Insecure: true}}
		switch scheme {
		case "ipmi":
			pc, err := net.ListenPacket("udp4", host+":0")
			if err != nil {
				tb.Fatal(err)
			}
			served.Go(func() { b.ServeIPMI(ctx, pc) })
			n.BMC.URL += pc.LocalAddr().String()
		case "redfish":
			l, err := net.Listen("tcp4", host+":0")
			if err != nil {
				tb.Fatal(err)
			}
			srv := httptest.NewUnstartedServer(b.Handler())
			srv.Listener.Close()
			srv.Listener = l
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			tb.Cleanup(srv.Close)
			n.BMC.URL += l.Addr().String()
		}
		nodes = append(nodes, n)
	}
	var c config.Config
	if err := c.Complete(); err != nil {
		tb.Fatal(err)
	}
	return nodes, func() *power.Pool {
		return power.NewPool(power.Options{Parallel: c.Power.Parallel, Keep: 20 * time.Second}, With(Options{}))
	}
}

// certificate is one for all BMCs; they would have keys of their own, and processors of their own to reckon with them.
func certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// statusAll asks all for their power.
func statusAll(tb testing.TB, p *power.Pool, nodes []node.Node) time.Duration {
	tb.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			err := p.Do(context.Background(), n, "secret", func(c power.Controller) error {
				st, err := c.Status(context.Background())
				if err == nil && st != power.StateOff {
					err = fmt.Errorf("it is %s", st)
				}
				return err
			})
			if err != nil {
				tb.Errorf("%s: %v", n.Name, err)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// TestFourHundred holds the promise: the status of 400 nodes, whose BMCs take half a second for each answer, within ten
// seconds.
func TestFourHundred(t *testing.T) {
	for _, scheme := range []string{"ipmi", "redfish"} {
		nodes, pool := rack(t, scheme)
		p := pool()
		cold := statusAll(t, p, nodes)
		warm := statusAll(t, p, nodes)
		p.Close()
		t.Logf("%s: %v, and %v with sessions that are open", scheme, cold.Round(10*time.Millisecond), warm.Round(10*time.Millisecond))
		if cold > patience*10*time.Second || warm > cold {
			t.Errorf("%s: the status of %d nodes took %v, and then %v", scheme, manyNodes, cold, warm)
		}
	}
}

func benchmarkStatus(b *testing.B, scheme string, again bool) {
	nodes, pool := rack(b, scheme)
	var kept *power.Pool
	if again {
		kept = pool()
		defer kept.Close()
		statusAll(b, kept, nodes)
	}
	for b.Loop() {
		p := kept
		if p == nil {
			p = pool()
		}
		statusAll(b, p, nodes)
		if kept == nil {
			b.StopTimer()
			p.Close()
			b.StartTimer()
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/400-nodes")
}

func BenchmarkStatusIPMI(b *testing.B)         { benchmarkStatus(b, "ipmi", false) }
func BenchmarkStatusIPMIAgain(b *testing.B)    { benchmarkStatus(b, "ipmi", true) }
func BenchmarkStatusRedfish(b *testing.B)      { benchmarkStatus(b, "redfish", false) }
func BenchmarkStatusRedfishAgain(b *testing.B) { benchmarkStatus(b, "redfish", true) }
