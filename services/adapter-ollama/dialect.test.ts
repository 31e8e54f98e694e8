import { join } from "node:path";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import { ollama } from "./dialect.ts";

testDialect(ollama, { folder: join(import.meta.dirname, "fixtures"), model: "llama3.2" });
