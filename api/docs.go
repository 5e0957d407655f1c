package api

import (
	"embed"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"
)

// The documentation page is Swagger UI out of this binary: no CDN, and a policy
// that lets the page load nothing from anywhere else. Where the files come from is
// in docs_assets/MANIFEST.sha512; a test compares.

//go:embed docs_assets
var docsAssets embed.FS

const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var docsFiles = []string{"swagger-ui-bundle.js", "swagger-ui.css", "page.js", "page.css", "favicon-32x32.png", "LICENSE", "NOTICE"}

func (s *Server) registerDocs(e *echo.Echo) {
	e.GET("/docs", docsFile("index.html"))
	e.GET("/docs/", docsFile("index.html"))
	for _, f := range docsFiles {
		e.GET("/docs/"+f, docsFile(f))
	}
	s.registerDescription(e)
}

// registerDescription serves the OpenAPI document. huma would, too, but makes it at
// the first request of each form without a lock.
func (s *Server) registerDescription(e *echo.Echo) {
	var mu sync.Mutex // for what the forms share
	for at, form := range map[string]func() ([]byte, error){
		"/openapi.json": s.api.OpenAPI().MarshalJSON, "/openapi-3.0.json": s.api.OpenAPI().Downgrade,
		"/openapi.yaml": s.api.OpenAPI().YAML, "/openapi-3.0.yaml": s.api.OpenAPI().DowngradeYAML,
	} {
		contentType := "application/openapi+" + strings.TrimPrefix(path.Ext(at), ".")
		made := sync.OnceValues(func() ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			return form()
		})
		e.GET(at, func(ec echo.Context) error {
			b, err := made()
			if err != nil {
				return err
			}
			return ec.Blob(http.StatusOK, contentType, b)
		})
	}
}

func docsFile(name string) echo.HandlerFunc {
	b, err := docsAssets.ReadFile("docs_assets/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	contentType := mime.TypeByExtension(path.Ext(name))
	if contentType == "" {
		contentType = "text/plain; charset=utf-8"
	}
	return func(ec echo.Context) error {
		h := ec.Response().Header()
		h.Set("Content-Security-Policy", docsPolicy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "max-age=3600")
		return ec.Blob(http.StatusOK, contentType, b)
	}
}
