// The handler of the Go contenders: net/http, a static binary. With BENCH_DESCRIPTOR it is the warm process behind the front: it speaks
// docs/protocol.md on that listening socket (a greeting, an envelope), then HTTP as anywhere.
package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

type answer struct {
	Hello string `json:"hello"`
}

func handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(400)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	text, _ := json.Marshal(answer{string(body)})
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Write(text)
}

// enveloped is a connection whose first line was the envelope.
type enveloped struct {
	net.Conn
	reader *bufio.Reader
	begun  bool
}

func (c *enveloped) Read(into []byte) (int, error) {
	if !c.begun {
		if _, err := c.reader.ReadSlice('\n'); err != nil {
			return 0, err
		}
		c.begun = true
	}
	return c.reader.Read(into)
}

type front struct{ net.Listener }

func (f front) Accept() (net.Conn, error) {
	connection, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	io.WriteString(connection, "MAYFLY/1 "+os.Getenv("BENCH_INSTANCE")+"\n")
	return &enveloped{Conn: connection, reader: bufio.NewReader(connection)}, nil
}

func main() {
	http.HandleFunc("/", handle)
	if text := os.Getenv("BENCH_DESCRIPTOR"); text != "" {
		number, _ := strconv.Atoi(text)
		listener, err := net.FileListener(os.NewFile(uintptr(number), "front"))
		if err != nil {
			panic(err)
		}
		panic(http.Serve(front{listener}, nil))
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	panic(http.ListenAndServe(os.Getenv("BENCH_HOST")+":"+port, nil))
}
