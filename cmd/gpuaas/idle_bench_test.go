package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkIdleHost is what a host daemon costs while nothing happens: the real hostd
// with one simulated host of eight slots, as gpuaas dev runs it, for fifteen seconds.
func BenchmarkIdleHost(b *testing.B) {
	const watched = 15 * time.Second
	s := dev(b, 1, 8)
	pid, err := s.child("hostd run")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		began, before := time.Now(), used(b, pid)
		time.Sleep(watched)
		b.ReportMetric(100*(used(b, pid)-before).Seconds()/time.Since(began).Seconds(), "cpu-percent")
		b.ReportMetric(residentKiB(b, pid)/1024, "rss-MiB")
		b.ReportMetric(1, "aim-cpu-percent")
		b.ReportMetric(60, "aim-rss-MiB")
	}
}

// used is the processor time of all threads of a process so far, by the scheduler: the
// ticks in /proc/PID/stat miss what only ever runs for a moment.
func used(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		b.Fatalf("process %d: %v", pid, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// residentKiB is how much memory a process has.
func residentKiB(b testing.TB, pid int) (kib float64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib
}
