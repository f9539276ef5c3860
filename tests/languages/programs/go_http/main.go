// net/http: goroutines on several threads, a nil pointer and an index whose panics are recovered, the collector run.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

type asked struct {
	Text   string `json:"text"`
	Number int    `json:"number"`
}

type node struct {
	_     [64]byte
	value int
}

var calls atomic.Int64

// What a panic said.
func recovered(work func()) (said string) {
	defer func() { said = fmt.Sprint(recover()) }()
	work()
	return "nothing"
}

// The sum of squares, a goroutine for each number.
func squares(number int) int {
	var total atomic.Int64
	var group sync.WaitGroup
	for n := 0; n <= number; n++ {
		group.Add(1)
		go func() {
			defer group.Done()
			total.Add(int64(n * n))
		}()
	}
	group.Wait()
	return int(total.Load())
}

func call(response http.ResponseWriter, request *http.Request) {
	count := calls.Add(1)
	var question asked
	if err := json.NewDecoder(request.Body).Decode(&question); err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	var missing *node
	index := question.Number + 10
	nilPanic := recovered(func() { response.Header().Set("X-Never", fmt.Sprint(missing.value)) })
	indexPanic := recovered(func() { _ = []int{1, 2, 3}[index] })
	sum := squares(question.Number)
	runtime.GC()
	response.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(response).Encode(map[string]any{
		"text":    question.Text,
		"count":   count,
		"sum":     sum,
		"random":  hex.EncodeToString(random),
		"nil":     strings.Contains(nilPanic, "nil pointer dereference"),
		"index":   strings.Contains(indexPanic, "index out of range"),
		"version": strings.TrimPrefix(runtime.Version(), "go"),
	})
}

func main() {
	http.HandleFunc("/", call)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":"+os.Getenv("PORT"), nil))
	os.Exit(1)
}
