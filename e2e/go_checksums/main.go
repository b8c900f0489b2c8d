// Command server is a checksum database with a key of its own. It says of a module what is written
// in the file `module@version` of the folder it is given, with `!x` for upper case and `+` for `/`.
package main

import (
	"crypto/rand"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	name, folder := os.Args[1], os.Args[2]
	secret, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		log.Fatal(err)
	}
	said := func(path, version string) ([]byte, error) {
		escaped, err := module.EscapePath(path)
		if err != nil {
			return nil, err
		}
		return os.ReadFile(filepath.Join(folder, strings.ReplaceAll(escaped, "/", "+")+"@"+version))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(public)
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, sumdb.NewServer(sumdb.NewTestServer(secret, said))))
}
