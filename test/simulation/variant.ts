import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import ts from 'typescript'
import type { simulate } from './simulate.ts'

/** A change of the source: the text must be there exactly once. */
export interface Edit { readonly file: string, readonly text: string, readonly replacement: string }

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
const ENTRY = 'test/simulation/simulate.ts'

/** The simulation, and all of lib/ that it runs, compiled with some of it changed. */
export class Workshop {
  readonly #directory = mkdtempSync(join(tmpdir(), 'sse-simulation-'))
  readonly #sources = new Map<string, string>()
  readonly #compiled = new Map<string, string>()
  #count = 0

  constructor () {
    symlinkSync(join(ROOT, 'node_modules'), join(this.#directory, 'node_modules'))
    this.#add(ENTRY)
  }

  #add (file: string): void {
    if (this.#sources.has(file)) return
    const source = readFileSync(join(ROOT, file), 'utf8')
    this.#sources.set(file, source)
    for (const [, path] of source.matchAll(/^(?:import|export) (?!type\b)[^;]*?from '(\.[^']+)'/gm)) this.#add(relative(ROOT, resolve(ROOT, dirname(file), path!)))
  }

  /** @throws where a text is not found, or found twice */
  async make (edits: readonly Edit[]): Promise<typeof simulate> {
    const sources = new Map(this.#sources)
    for (const { file, text, replacement } of edits) {
      const parts = sources.get(file)?.split(text)
      if (parts?.length !== 2) throw new Error(`${file}: found ${(parts?.length ?? 1) - 1} times, not once: ${text}`)
      sources.set(file, parts.join(replacement))
    }
    const directory = join(this.#directory, String(this.#count++))
    for (const [file, source] of sources) {
      const path = join(directory, file.replace(/\.ts$/, '.js'))
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, this.#compile(source))
    }
    writeFileSync(join(directory, 'package.json'), '{ "type": "module" }')
    return (await import(pathToFileURL(join(directory, ENTRY.replace(/\.ts$/, '.js'))).href)).simulate
  }

  #compile (source: string): string {
    let compiled = this.#compiled.get(source)
    if (compiled === undefined) {
      const { ESNext } = ts.ModuleKind
      compiled = ts.transpileModule(source, { compilerOptions: { target: ts.ScriptTarget.ES2022, module: ESNext, verbatimModuleSyntax: true, rewriteRelativeImportExtensions: true } }).outputText
      this.#compiled.set(source, compiled)
    }
    return compiled
  }

  close (): void {
    rmSync(this.#directory, { recursive: true, force: true })
  }
}
