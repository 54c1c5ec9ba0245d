// Package metrics counts what a management node does, for Prometheus.
//
// docs/metrics.md lists all names. What can be looked up is looked up when somebody asks; only what would be gone by then is counted.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Now is what holds at one moment.
type Now struct {
	Nodes        map[node.BootState]int
	Jobs         []api.Job // the active ones
	StoreBytes   int64
	FreeBytes    int64            // of the store's filesystem
	RequestBytes int64            // memory of requests to the store
	Waiting      int              // requests to the store that wait
	Interfaces   map[string]int64 // name to 1 where it is up, else 0
}

// Metrics counts. Its methods may be called from several goroutines, and never wait.
type Metrics struct {
	registry *prometheus.Registry
	events   *prometheus.CounterVec
	ended    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New makes the metrics of a server. look tells what holds now; an error of it is an error of the answer.
func New(version string, started time.Time, look func(context.Context) (Now, error)) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mimeo_node_events_total", Help: "Events of nodes, by kind, as \"mimeo node events\" shows them."}, []string{"kind"}),
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mimeo_jobs_ended_total", Help: "Jobs that ended, by kind and how."}, []string{"kind", "end"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mimeo_job_bytes_total", Help: "Bytes of jobs that ended, by kind of job and what was done with them."}, []string{"kind", "what"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mimeo_job_duration_seconds", Help: "How long jobs took that were done, from their start.",
			Buckets: []float64{30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800}}, []string{"kind"}),
	}
	for _, kind := range []api.TaskKind{api.TaskCapture, api.TaskDeploy, api.TaskWipe} {
		for _, end := range []api.Phase{api.PhaseDone, api.PhaseFailed, api.PhaseCancelled, api.PhaseLost} {
			m.ended.WithLabelValues(string(kind), string(end)) // there from the start, so that the first one is seen as a change
		}
	}
	for _, kind := range []string{"script", "agent"} { // an alert compares them
		m.events.WithLabelValues(kind)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mimeo_info", Help: "Always 1; the label has the version.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	start := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mimeo_start_time_seconds", Help: "When mimeod was started, in Unix time."})
	start.Set(float64(started.Unix()))
	m.registry.MustRegister(m.events, m.ended, m.bytes, m.seconds, info, start, &state{look: look}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

// Event counts an event of a node.
func (m *Metrics) Event(kind string) { m.events.WithLabelValues(kind).Inc() }

// Ended counts a job that has ended.
func (m *Metrics) Ended(j api.Job) {
	m.ended.WithLabelValues(string(j.Kind), string(j.Phase)).Inc()
	for what, n := range j.Counts {
		if n > 0 && counted[what] {
			m.bytes.WithLabelValues(string(j.Kind), what).Add(float64(n))
		}
	}
	if j.Phase == api.PhaseDone && j.Started != nil && j.Ended != nil {
		m.seconds.WithLabelValues(string(j.Kind)).Observe(j.Ended.Sub(*j.Started).Seconds())
	}
}

// counted are the counts of jobs that are bytes. An agent may send others: what comes from outside makes no new labels.
var counted = map[string]bool{"used": true, "read": true, "new": true, "sent": true, "stored": true, "written": true, "skipped": true, "trusted": true, "zeroed": true, "fetched": true, "discarded": true}

// state collects what is looked up.
type state struct {
	look func(context.Context) (Now, error)
}

var (
	nodesDesc   = prometheus.NewDesc("mimeo_nodes", "Nodes, by boot state.", []string{"boot"}, nil)
	jobsDesc    = prometheus.NewDesc("mimeo_jobs", "Jobs that have not ended, by kind and phase.", []string{"kind", "phase"}, nil)
	silentDesc  = prometheus.NewDesc("mimeo_job_silence_seconds", "The longest time that a job which has begun has made no progress for.", nil, nil)
	storeDesc   = prometheus.NewDesc("mimeo_store_bytes", "Bytes of the store's packs.", nil, nil)
	freeDesc    = prometheus.NewDesc("mimeo_store_free_bytes", "Bytes that are free on the store's filesystem.", nil, nil)
	requestDesc = prometheus.NewDesc("mimeo_store_request_bytes", "Memory that requests of nodes to the store have.", nil, nil)
	waitingDesc = prometheus.NewDesc("mimeo_store_requests_waiting", "Requests of nodes to the store that wait for their turn.", nil, nil)
	ifaceDesc   = prometheus.NewDesc("mimeo_interface_up", "Whether an interface on which nodes are served is up.", []string{"interface"}, nil)
)

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, jobsDesc, silentDesc, storeDesc, freeDesc, requestDesc, waitingDesc, ifaceDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	now, err := s.look(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(nodesDesc, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for boot, n := range now.Nodes {
		gauge(nodesDesc, float64(n), string(boot))
	}
	type key struct{ kind, phase string }
	jobs := map[key]int{}
	silent := 0.0
	for _, j := range now.Jobs {
		jobs[key{string(j.Kind), string(j.Phase)}]++
		if j.LastProgress != nil && j.Phase != api.PhaseQueued {
			silent = max(silent, time.Since(*j.LastProgress).Seconds())
		}
	}
	for k, n := range jobs {
		gauge(jobsDesc, float64(n), k.kind, k.phase)
	}
	gauge(silentDesc, silent)
	gauge(storeDesc, float64(now.StoreBytes))
	gauge(freeDesc, float64(now.FreeBytes))
	gauge(requestDesc, float64(now.RequestBytes))
	gauge(waitingDesc, float64(now.Waiting))
	for name, up := range now.Interfaces {
		gauge(ifaceDesc, float64(up), name)
	}
}
