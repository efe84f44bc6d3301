// A minimal fan-out server in Go: net/http, one buffered channel per client, one goroutine that publishes.
// Written for this comparison, in the way that Go programs usually do it. Same commands as server.js.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Events that may wait for one client. A full channel makes the publisher wait, so nothing is lost and nothing grows.
const buffered = 512

var (
	mutex    sync.Mutex
	channels = map[int]map[chan string]bool{}
	seqs     = map[int]int{}
	out      sync.Mutex
)

// Go's own monotonic clock cannot be read as a number.
func nowMicros() int64 {
	var t syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano() / 1000
}

func stream(w http.ResponseWriter, r *http.Request) {
	var first, count int
	if n, _ := fmt.Sscanf(r.URL.Path, "/stream/%d/%d", &first, &count); n != 2 {
		http.NotFound(w, r)
		return
	}
	client := make(chan string, buffered)
	mutex.Lock()
	for i := first; i < first+count; i++ {
		if channels[i] == nil {
			channels[i] = map[chan string]bool{}
		}
		channels[i][client] = true
	}
	mutex.Unlock()
	defer func() {
		mutex.Lock()
		for i := first; i < first+count; i++ {
			delete(channels[i], client)
		}
		mutex.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	flusher := w.(http.Flusher)
	flusher.Flush()
	for {
		select {
		case event := <-client:
			if _, err := fmt.Fprint(w, event); err != nil {
				return
			}
			flusher.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func publish(channel int, event string) {
	mutex.Lock()
	members := make([]chan string, 0, len(channels[channel]))
	for client := range channels[channel] {
		members = append(members, client)
	}
	mutex.Unlock()
	for _, client := range members {
		client <- event
	}
}

func schedule(count, every, bytes, first, spread int, limit int64) {
	start := nowMicros()
	done := 0
	for ; done < count && nowMicros() < start+limit*1000; done++ {
		due := start + int64(done*every)
		if left := due - nowMicros(); left > 0 {
			time.Sleep(time.Duration(left) * time.Microsecond)
		}
		mutex.Lock()
		seqs[first]++
		seq := seqs[first]
		mutex.Unlock()
		data := fmt.Sprintf("%d %d ", seq, due)
		if bytes < 24 {
			data = fmt.Sprintf("%d ", seq)
		}
		if len(data) < bytes {
			data += strings.Repeat("x", bytes-len(data))
		}
		publish(first+done%spread, "data: "+data+"\n\n")
	}
	answer(fmt.Sprintf(`{"published":%d}`, done))
}

func answer(line string) {
	out.Lock()
	fmt.Println(line)
	out.Unlock()
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/stream/", stream)
	http.HandleFunc("/other", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	go http.Serve(listener, nil)
	answer(fmt.Sprintf(`{"port":%d}`, listener.Addr().(*net.TCPAddr).Port))
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var count, every, bytes, first, spread int
		var limit int64
		if n, _ := fmt.Sscanf(input.Text(), "publish %d %d %d %d %d %d", &count, &every, &bytes, &first, &spread, &limit); n == 6 {
			go schedule(count, every, bytes, first, spread, limit)
			continue
		}
		if input.Text() == "gc" {
			runtime.GC()
		}
		answer("{}")
	}
}
