// Swagger UI over this service's own description, with the token of the usage page filled in where
// there is one. It asks no other host: no validator, no fonts.
import "./docs.css";

interface Ui {
  preauthorizeApiKey(scheme: string, token: string): void;
}
declare const SwaggerUIBundle: (options: Record<string, unknown>) => Ui;

/** The name under which the description declares bearer tokens. */
async function bearerScheme(description: string): Promise<string | null> {
  const { components } = await (await fetch(description)).json() as
    { components?: { securitySchemes?: Record<string, { type?: string; scheme?: string }> } };
  return Object.entries(components?.securitySchemes ?? {})
    .find(([, scheme]) => scheme.type === "http" && scheme.scheme?.toLowerCase() === "bearer")?.[0] ?? null;
}

const description = new URL("../openapi.json", document.baseURI).href;
const ui = SwaggerUIBundle({
  url: description,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  syntaxHighlight: { theme: "nord" },
  onComplete: () => {
    const token = sessionStorage.getItem("token_usage.token");
    if (token) {
      void bearerScheme(description).then((scheme) => scheme && ui.preauthorizeApiKey(scheme, token)).catch(() => {});
    }
  },
});
