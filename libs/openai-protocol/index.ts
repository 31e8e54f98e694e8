/** OpenAI's protocol, for the adapters of all servers that speak it. What differs between the servers is data: servers.ts. */
export { createOpenAiDialect, type DialectSettings } from "./dialect.ts";
