// Command program uses a few of the modules that its go.mod asks for. The others are there to be
// downloaded, so it is not tidy.
package main

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
	"github.com/dustin/go-humanize"
	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/huandu/xstrings"
	"github.com/mitchellh/go-homedir"
	"github.com/pkg/errors"
	"github.com/robfig/cron/v3"
	"github.com/spf13/pflag"
	"github.com/tidwall/sjson"
	"go.uber.org/multierr"
	"gopkg.in/yaml.v2"
)

func main() {
	read := struct{ Words []string }{[]string{"one", "two"}}
	version, wrong := semver.NewVersion("1.2.3")
	text, refused := sjson.Set("{}", "size", humanize.Bytes(1000))
	_, unread := cron.ParseStandard("@daily")
	_, homeless := homedir.Expand("/")
	out, unwritten := yaml.Marshal(read)
	pflag.Parse()
	_ = mux.NewRouter()
	fmt.Println(version, text, string(out), xstrings.Reverse("desrever"), uuid.Nil)
	if all := multierr.Combine(wrong, refused, unread, homeless, unwritten); all != nil {
		panic(errors.Wrap(all, "program"))
	}
}
