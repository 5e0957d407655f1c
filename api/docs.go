package api

import (
	"embed"
	"mime"
	"net/http"
	"path"

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
