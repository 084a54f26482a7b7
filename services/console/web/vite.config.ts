import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Beside each file of some size its compressed forms, so that the service has nothing to compress. */
function compressed(): Plugin {
  let directory = "";
  return {
    name: "compressed",
    apply: "build",
    configResolved(config) {
      directory = config.build.outDir;
    },
    closeBundle() {
      for (const entry of readdirSync(directory, { recursive: true, encoding: "utf8" })) {
        if (!/\.(js|css|html|svg)$/.test(entry)) continue;
        const path = join(directory, entry);
        const body = readFileSync(path);
        writeFileSync(`${path}.gz`, gzipSync(body, { level: 9 }));
        writeFileSync(`${path}.br`, brotliCompressSync(body));
      }
    },
  };
}

export default defineConfig({
  plugins: [compressed()],
  build: {
    target: "es2022",
    // Nothing inline: the content security policy allows files of the console's own, and no more.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // Not Vite's own dist: the suite has a link into its cache by that name, which would be written through.
    outDir: "out",
    emptyOutDir: true,
  },
});
