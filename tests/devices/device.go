// A device on Go's crypto/tls, with the command line and the steps of device.c.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	burst = 64 * 1024
	bulk  = 1024 * 1024
)

type device struct {
	port   string
	config *tls.Config
	tls    *tls.Conn
	stdin  *bufio.Reader
}

func open(arguments []string) (*device, error) {
	pem, err := os.ReadFile(arguments[1])
	if err != nil {
		return nil, err
	}
	version := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[arguments[4]]
	config := &tls.Config{
		RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: version, MaxVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("no CA")
	}
	if arguments[2] != "-" {
		own, err := tls.LoadX509KeyPair(arguments[2], arguments[3])
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return &device{port: arguments[0], config: config, stdin: bufio.NewReader(os.Stdin)}, nil
}

func (d *device) connect() error {
	tcp, err := net.Dial("tcp", "127.0.0.1:"+d.port)
	if err != nil {
		return err
	}
	tcp.SetDeadline(time.Now().Add(30 * time.Second))
	d.tls = tls.Client(tcp, d.config)
	return d.tls.Handshake()
}

func (d *device) send(text string) error {
	_, err := d.tls.Write([]byte(text))
	return err
}

func (d *device) expect(wanted []byte) error {
	found := make([]byte, len(wanted))
	if _, err := io.ReadFull(d.tls, found); err != nil {
		return err
	}
	if !bytes.Equal(found, wanted) {
		return errors.New("other bytes than expected")
	}
	return nil
}

func (d *device) ask(request string, answer []byte) error {
	if err := d.send(request); err != nil {
		return err
	}
	return d.expect(answer)
}

// Returns the bytes of a transfer.
func transfer(length int) []byte {
	all := make([]byte, length)
	for i := range all {
		all[i] = byte((uint32(i) * 2654435761) >> 24)
	}
	return all
}

func (d *device) step(name string) error {
	switch name {
	case "connect":
		return d.connect()
	case "echo":
		if err := d.ask("echo\n", []byte("echo\n")); err != nil {
			return err
		}
		fmt.Println(map[bool]string{true: "resumed", false: "full"}[d.tls.ConnectionState().DidResume])
		return nil
	case "burst":
		return d.ask("burst\n", transfer(burst))
	case "bulk":
		if err := d.ask("download\n", transfer(bulk)); err != nil {
			return err
		}
		return d.ask("upload\n"+string(transfer(bulk)), []byte("ok\n"))
	case "half-close":
		if err := d.send("collect\nthe last reading\n"); err != nil {
			return err
		}
		if err := d.tls.CloseWrite(); err != nil {
			return err
		}
		if err := d.expect([]byte("17\n")); err != nil {
			return err
		}
		if _, err := d.tls.Read(make([]byte, 1)); err != io.EOF {
			return fmt.Errorf("no end: %v", err)
		}
		return nil
	case "pause":
		fmt.Println("paused")
		_, err := d.stdin.ReadString('\n')
		return err
	case "close":
		return d.tls.Close()
	}
	return errors.New("unknown")
}

func main() {
	d, err := open(os.Args[1:])
	if err != nil {
		fmt.Println("FAILED start:", err)
		os.Exit(1)
	}
	for _, name := range os.Args[7:] {
		if err := d.step(name); err != nil {
			fmt.Printf("FAILED %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}
