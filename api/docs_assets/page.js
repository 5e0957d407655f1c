// The key typed into "Authorize" stays in this page: it is never stored.
SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#api", deepLinking: true, docExpansion: "list", defaultModelsExpandDepth: 0,
  persistAuthorization: false, validatorUrl: null, tryItOutEnabled: false,
});
