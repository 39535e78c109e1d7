#!/usr/bin/env python3
"""Writes the shipped catalogue (providers, models and endpoints, one JSON row a line) from the facts of models.dev, and the
names that were left out, so that a refresh does not bring them back.

    python3 config/catalog/build.py --data DIR

DIR/catalog holds providers.jsonl, endpoints.jsonl and slug_candidates.jsonl: models.dev (MIT) at the commit named in
review.toml, normalised. What a rule cannot know is in review.toml, by hand; this file has rules only. Needs Python 3.11.
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import tomllib

HERE = pathlib.Path(__file__).parent
REVIEW = tomllib.loads((HERE / "review.toml").read_text())


# Keys of a rule that say where it applies, or how.
RULE_ONLY = ("provider", "name", "but_not", "adds", "skip")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(name, table):
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in table]
    (HERE / name).write_text("\n".join(lines) + "\n")


def providers(facts):
    """The providers whose dialect is spoken: kind, address, credential, and what review.toml adds."""
    table = []
    for fact in facts:
        review = REVIEW["providers"].get(fact["id"], {})
        kind = review.get("kind") or REVIEW["kinds"].get(fact["npm"])
        url = (review.get("base_url") or fact.get("api") or "").rstrip("/").removesuffix("/chat/completions")
        if not kind or review.get("skip") or not url or "127.0.0.1" in url or "localhost" in url:
            continue
        row = {"id": fact["id"], "name": fact["name"], "kind": kind, "base_url": url}
        if kind == "openai" and not review.get("aggregator"):
            row["history"] = "none"
        row["env"] = review.get("env") or [name for name in fact["env"] if f"${{{name}}}" not in url]
        row |= {key: value for key, value in review.items() if key not in row or key == "history"}
        table.append(row)
    return table


def slug_of(endpoint, candidates):
    """The canonical model of an endpoint: OpenRouter's slug where it is the same model, else `provider/id`."""
    provider, name = endpoint["provider"], endpoint["id"]
    if (fixed := REVIEW["slugs"].get(f"{provider}/{name}")) is not None:
        return fixed
    if provider == "openrouter":
        return name
    if name.startswith("openrouter/"):
        return None
    bare = name.rsplit("/", 1)[-1].lower()
    for wrong in REVIEW["not_the_same"]:
        if match := re.search(wrong["name"], bare):
            return match.expand(wrong["slug"]) if "slug" in wrong else None
    slug = candidates.get((provider, name))
    if bare.endswith("-latest") and slug and not slug.endswith("-latest"):
        return None
    if slug is None:
        return f"{provider}/{name}"
    if re.search(r"[:-]free$", bare):
        return slug if slug.endswith(":free") else slug + ":free"
    if re.search(REVIEW["variants"], bare) and not re.search(REVIEW["variants"], slug):
        return None
    return slug


def price(cost, claude):
    """Dollars per million tokens. A cache price of 0 beside a priced input is a gap in the source, not a gift."""
    found = {"input": cost["input"], "output": cost["output"]}
    for key in ("cache_read", "cache_write"):
        if cost.get(key):
            found[key] = cost[key]
    if claude and "cache_write" not in found:
        found["cache_write"] = round(cost["input"] * 1.25, 6)  # platform.claude.com/docs/en/build-with-claude/prompt-caching
    if cost.get("reasoning", 0) > cost["output"]:
        found["reasoning_price"] = cost["reasoning"]
    return found


def abilities(fact):
    takes = fact["modalities"]["input"]
    flags = [
        ("tools", fact["tool_call"]),
        ("json_schema", fact.get("structured_output")),
        ("images", "image" in takes),
        ("pdf", "pdf" in takes),
        ("reasoning", fact["reasoning"]),
    ]
    return [name for name, flag in flags if flag]


def endpoint_row(fact, slug, provider):
    cost = fact["cost"]
    row = {"model": slug, "provider": fact["provider"], "name": fact["id"]}
    if provider["kind"] == "bedrock" and (region := re.match(r"(us|eu|au|jp|apac|global)\.", fact["id"])):
        row |= {"tag": region[1], "region": region[1]}
    claude = slug.startswith("anthropic/") and cost["input"] > 0
    row |= price(cost, claude)
    if tiers := cost.get("tiers"):
        row["tiers"] = [{"over": tier["tier"]["size"]} | price({**cost, **tier}, claude) for tier in tiers]
    limit = fact["limit"]
    row |= {"context": limit["context"], "output_max": limit["output"], "abilities": abilities(fact)}
    if limit.get("input"):
        row["input_max"] = limit["input"]
    if fact.get("temperature") is False:
        row["no_sampling"] = True
    if fact.get("status") == "deprecated":
        row["status"] = "deprecated"
    for rule in REVIEW["endpoints"]:
        if re.search(rule["provider"], fact["provider"]) and re.search(rule["name"], fact["id"]) and not (
            "but_not" in rule and re.search(rule["but_not"], fact["id"])
        ):
            if rule.get("skip"):
                return None
            row |= {key: value for key, value in rule.items() if key not in RULE_ONLY}
            row["abilities"] += [rule["adds"]] if "adds" in rule else []
    if quantized := re.search(r"-(fp8|fp4|nvfp4|bf16|int4|int8|mxfp4)\b", fact["id"].lower()):
        row["quantization"] = quantized[1]
    if cost["input"] == 0 and cost["output"] == 0:
        row["billing"] = "free" if slug.endswith(":free") else "flat_rate"
    elif provider.get("billing"):
        row["billing"] = provider["billing"]
    if row.get("billing") == "flat_rate":
        row |= {"input": 0.0, "output": 0.0}
        for priced in ("cache_read", "cache_write", "reasoning_price", "tiers"):
            row.pop(priced, None)
    return row


def kind_of(fact):
    """What a model makes: chat, embeddings, images or audio; None for what no path of ours serves."""
    made = fact["modalities"]["output"]
    if made == ["text"] and re.search(r"embed", fact["id"].lower()):
        return "embeddings"
    if made == ["text"]:
        if re.search(REVIEW["not_chat"], fact["id"].lower()):
            return "other" if fact["provider"] == "openrouter" else None
        return "chat"
    # Other makers are known by OpenRouter's names, so that a name is never a riddle.
    if fact["provider"] == "openrouter" and "text" in made:
        return "images" if "image" in made else "audio"
    return None


def usable(fact, spoken):
    """True where it can be called and billed: a known dialect, a known price, known limits."""
    if fact["provider"] not in spoken or "cost" not in fact:
        return False
    kind = kind_of(fact)
    if kind == "embeddings":
        return spoken[fact["provider"]]["kind"] == "openai" and fact["cost"]["input"] > 0
    return kind and fact["limit"].get("context") and fact["limit"].get("output")


def plausible(found):
    """Drops prices more than ten times off the middle of four or more: another currency, another unit, a slip."""
    by_model = collections.defaultdict(list)
    for row in found:
        if row["output"] > 0:
            by_model[row["model"]].append(row["output"])
    kept = []
    for row in found:
        others = by_model[row["model"]]
        middle = statistics.median(others) if len(others) >= 4 else None
        if middle and row["output"] > 0 and not middle / 10 <= row["output"] <= middle * 10:
            print(f"left out: {row['model']} at {row['provider']}, ${row['output']} where the middle is ${middle:.2f}")
        else:
            kept.append(row)
    return kept


def same_provider_twice(found):
    """Keeps one row for each model at one provider and tag; the others' names stay as aliases of the model."""
    kept, names = {}, collections.defaultdict(list)
    for row in found:
        key = (row["model"], row["provider"], row.get("tag"))
        known = kept.get(key)
        if known is None:
            kept[key] = row
            continue
        # The name nearest to the canonical one; of equals the shorter, which is the provider's own moving name.
        slug = re.sub(r"[^a-z0-9]", "", row["model"].split("/", 1)[1].lower())
        fit = lambda r: (r.get("status") == "deprecated", slug not in re.sub(r"[^a-z0-9]", "", r["name"].lower()), len(r["name"]))
        better, other = (row, known) if fit(row) < fit(known) else (known, row)
        kept[key] = better
        if all(better.get(k) == other.get(k) for k in ("input", "output")):
            names[row["model"]].append(other["name"])
    return list(kept.values()), names


def model_rows(endpoints, facts, names):
    """One row a model; facts from the author's own provider where there is one, else OpenRouter's, else the first."""
    by_model = collections.defaultdict(list)
    for row in endpoints:
        by_model[row["model"]].append((row, facts[row["provider"], row["name"]]))
    table = []
    for model, served in sorted(by_model.items()):
        author = model.split("/")[0]
        rank = lambda pair: (REVIEW["authors"].get(author, author) != pair[0]["provider"], pair[0]["provider"] != "openrouter")
        _, fact = min(served, key=rank)
        row = {"id": model, "name": fact["name"].strip(), "released": fact["release_date"]}
        if (kind := kind_of(fact)) != "chat":
            row["kind"] = kind
        if fact.get("open_weights"):
            row["open_weights"] = True
        if fact.get("knowledge"):
            row["knowledge"] = fact["knowledge"]
        if aliases := sorted({name for name in names[model] if name != model}):
            row["aliases"] = aliases
        table.append(row)
    return table


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=pathlib.Path, required=True)
    folder = arguments.parse_args().data / "catalog"
    spoken = {row["id"]: row for row in providers(rows(folder / "providers.jsonl"))}
    candidates = {(row["provider"], row["id"]): row["slug"] for row in rows(folder / "slug_candidates.jsonl")}
    facts, found = {}, []
    for fact in rows(folder / "endpoints.jsonl"):
        slug = usable(fact, spoken) and slug_of(fact, candidates)
        if slug and not re.match(REVIEW["floating"], slug):
            facts[fact["provider"], fact["id"]] = fact
            found.append(endpoint_row(fact, slug, spoken[fact["provider"]]))
    found = [row for row in found if row]
    endpoints, names = same_provider_twice(plausible(found))
    endpoints.sort(key=lambda row: (row["model"], row["provider"], row.get("tag", "")))
    served = {row["provider"] for row in endpoints}
    write("providers.jsonl", [row for row in sorted(spoken.values(), key=lambda row: row["id"]) if row["id"] in served])
    write("models.jsonl", model_rows(endpoints, facts, names))
    write("endpoints.jsonl", endpoints)
    kept = {(row["provider"], row["name"]) for row in endpoints}
    left_out = [f"{row['provider']}\t{row['id']}" for row in rows(folder / "endpoints.jsonl") if row["provider"] in spoken]
    left_out = sorted(line for line in left_out if tuple(line.split("\t")) not in kept)
    (HERE / "left_out.tsv").write_text("\n".join(left_out) + "\n")
    print(f"{len(served)} providers, {len({row['model'] for row in endpoints})} models, {len(endpoints)} endpoints")


main()
