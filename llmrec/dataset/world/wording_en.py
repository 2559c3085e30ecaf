"""English wording of the generated worlds."""

from __future__ import annotations

from llmrec.dataset.world.wording import DomainWords, People

PEOPLE = People(
    facts="{age}, {job} from {place}.",
    jobs="""nurse, teacher, engineer, student, driver, chef, lawyer, farmer, designer, accountant, electrician,
        writer, librarian, pilot, baker, retired""",
    places="""Leeds, Austin, Perth, Dublin, Toronto, Bristol, Denver, Glasgow, Auckland, Boston, Cork, Ottawa,
        Portland, Cardiff, Chicago, Brisbane""",
    names="""Ana, Ben, Cleo, Dan, Eva, Finn, Grace, Hugo, Iris, Jack, Kate, Leo, Mia, Noah, Olga, Paul, Quinn, Rosa,
        Sam, Tess, Uma, Vera, Will, Zoe""",
    fluff=(
        "Has two cats.",
        "Moved last year.",
        "Works night shifts.",
        "Has three children.",
        "Shops on the phone.",
        "Joined with a friend.",
        "Travels a lot.",
        "Sings in a choir.",
    ),
    separator=" and ",
    join=" ",
    edition=" {}",
    capitals=True,
    currency="USD",
)

SHOP = DomainWords(
    topics="""
camping: tent, camp stove, hammock, lantern, backpack, sleeping bag, water flask, tarp
cooking: skillet, chef knife, wok, cutting board, saucepan, whisk, casserole, ladle
gardening: trowel, planter, watering can, pruner, seed tray, garden hose, rake, trellis
cycling: bike helmet, saddle, bike pump, handlebar, pannier, bike lock, pedals, bell
home office: desk, office chair, desk lamp, monitor stand, notebook, pen holder, bookshelf, footrest
pets: dog leash, cat tree, pet bed, feeding bowl, dog toy, aquarium, bird cage, litter box
baby care: stroller, crib, baby monitor, high chair, rattle, bib, diaper bag, playmat
coffee: espresso machine, coffee grinder, mug, kettle, milk frother, moka pot, filter, coffee scale
yoga: yoga mat, yoga block, foam roller, stretch band, meditation cushion, leggings, yoga strap, wobble board
photography: tripod, camera bag, lens, flash, photo album, camera strap, light tent, picture frame
woodworking: drill, hand plane, chisel, workbench, clamp, hammer, jigsaw, sander
knitting: yarn, knitting needles, crochet hook, stitch markers, wool basket, loom, pattern book, thimble
""",
    styles="""
handmade: handmade, artisan, carved
minimalist: plain, slim, minimal
rugged: rugged, heavy-duty, all-weather
vintage: vintage, retro, antique
smart: smart, wireless, automatic
eco: bamboo, recycled, organic
budget: basic, budget, value
luxury: deluxe, premium, gilded
""",
    title="{style} {noun}",
    description="{style} {noun} for {topic}, from the {style_name} range of {maker}.",
    makers="""Norvik, Hale & Co, Tamsin, Orbita, Fernhill, Kestrel, Lumo, Baxter, Pinecrest, Solano, Umber, Wren,
        Zephyr, Marlow, Ostra, Quill""",
    good=(
        "Owners still use it after years.",
        "Buyers often order a second one.",
        "Hardly ever sent back.",
        "Tested well beyond its rating.",
    ),
    bad=(
        "Looks better in the picture than in the hand.",
        "Many are sent back.",
        "The finish wears off within weeks.",
        "Smaller than it seems.",
    ),
    plain=("Ships within two days.", "Available in three colours.", "Comes with a short manual.", "New this season."),
    likes="Likes {topics}.",
    prefers="Prefers {styles} things.",
    price=(12.0, 90.0),
)

FILM = DomainWords(
    topics="""
crime: heist, alibi, detective, getaway, informant, witness, prison break, verdict
space: starship, orbit, colony, wormhole, asteroid, mission control, android, eclipse
horror: haunting, cellar, exorcism, curse, nightmare, scream, cabin, werewolf
romance: wedding, love letter, first date, honeymoon, proposal, summer fling, kiss, reunion
western: sheriff, saloon, cattle drive, outlaw, frontier, stagecoach, gold rush, duel
war: battalion, trench, convoy, bomber crew, armistice, siege, submarine, resistance
sport: underdog, boxing ring, marathon, coach, penalty, playoff, rally, championship
family: puppy, summer camp, grandparents, tree house, birthday, school play, snowman, toy shop
history: queen, emperor, voyage, revolution, court painter, crusade, dynasty, plague
music drama: band, opera, rapper, violinist, concert tour, jazz club, choir, record deal
fantasy: dragon, wizard, kingdom, prophecy, enchanted forest, amulet, giant, phoenix
documentary: glacier, coral reef, whistleblower, factory, vaccine, volcano, beekeeper, metropolis
""",
    styles="""
funny: hilarious, goofy, clumsy
dark: bleak, sinister, grim
heartwarming: tender, gentle, hopeful
fast-paced: explosive, relentless, breakneck
slow-burning: quiet, lingering, patient
surreal: dreamlike, impossible, upside-down
classic: golden, timeless, black-and-white
independent: handheld, wayward, offbeat
""",
    title="the {style} {noun}",
    description="{style_name} {topic} film about one {style} {noun}, directed by {maker}.",
    makers="""R. Almeida, J. Okafor, S. Lindqvist, M. Tanaka, C. Moreau, D. Novak, L. Hartmann, P. Iyer, K. Byrne,
        A. Costa, T. Vance, E. Rossi, H. Dahl, N. Petrov, B. Mensah, F. Duarte""",
    good=(
        "Audiences watch it to the end and then again.",
        "Stayed in cinemas for months.",
        "The last act is what everybody talks about.",
        "Owned by most who rented it.",
    ),
    bad=(
        "The trailer holds its best scenes.",
        "Half the audience leaves before the end.",
        "The story is dropped midway.",
        "Mostly known for its poster.",
    ),
    plain=("Subtitled in nine languages.", "Runs 104 minutes.", "Shot on location.", "Now available to rent."),
    likes="Watches {topics}.",
    prefers="In the mood for {styles} films.",
    price=(3.0, 12.0),
)

MUSIC = DomainWords(
    topics="""
jazz: swing, saxophone, bebop, trumpet, big band, blue note, double bass, scat
rock: guitar riff, power chord, garage, amplifier, drum solo, stage dive, feedback, anthem
techno: warehouse, synth line, bassline, strobe, loop, acid, drum machine, afterhours
classical: sonata, string quartet, nocturne, prelude, concerto, fugue, cello suite, overture
folk: ballad, fiddle, banjo, shanty, campfire, mandolin, harvest song, lament
hip-hop: freestyle, beat tape, turntable, cypher, mixtape, sample, flow, rhyme
pop: chorus, radio hit, dance floor, duet, earworm, hook, love song, boy band
reggae: dub, roots, riddim, sound system, offbeat, skank, island, melodica
metal: blast beat, growl, thrash, doom, shredder, mosh pit, iron, howl
latin: salsa, bossa nova, tango, rumba, cumbia, samba, bolero, mambo
soul: groove, gospel, falsetto, motown, horn section, slow jam, hammond, heartbreak
ambient: drone, field recording, tape hiss, rainfall, soundscape, piano haze, whale song, static
""",
    styles="""
mellow: mellow, easy, soft
energetic: wild, blazing, restless
melancholic: lonely, blue, faded
live: live, unplugged, on-stage
romantic: velvet, moonlit, dreamy
experimental: broken, fractured, alien
nostalgic: old-school, sepia, yesterday's
party: neon, midnight, glitter
""",
    title="{style} {noun}",
    description="{style} {noun}: {style_name} {topic} track by {maker}.",
    makers="""The Lanterns, Mira Sol, Cold Harbour, DJ Osei, Paper Tigers, Nils Aune, Las Olas, Echo Park,
        Juno Ray, Black Kettle, Sister Moss, Kobalt, Old Pier, Yara, The Night Bus""",
    good=(
        "Listeners add it to their library.",
        "Still on repeat after months.",
        "Grows with every listen.",
        "Fans bought it on vinyl.",
    ),
    bad=(
        "Most skip it after the intro.",
        "The cover promises more than the song.",
        "Forgotten after one play.",
        "Only the first ten seconds went viral.",
    ),
    plain=("From the new album.", "Three minutes long.", "Recorded in one take.", "Remastered this year."),
    likes="Listens to {topics}.",
    prefers="Into {styles} sounds.",
    price=(0.99, 1.99),
)

NEWS = DomainWords(
    topics="""
politics: election, coalition talks, parliament, cabinet reshuffle, tax bill, referendum, lobbying, border treaty
business: merger, interest rates, layoffs, stock market, start-up funding, supply chain, oil price, bankruptcy
science: gene editing, moon landing, fossil find, particle collider, black hole, quantum chip, brain scan, polar ice
health: flu season, hospital waiting lists, sleep study, new vaccine, heart surgery, sugar tax, allergy, back pain
football: transfer window, derby, penalty shoot-out, relegation, striker, cup final, offside row, goalkeeper
climate: heat wave, wind farm, flood, wildfire, carbon market, drought, solar panels, rising seas
technology: chatbot, data leak, smartphone, self-driving cars, app store, battery, satellite internet, hackers
culture: museum heist, book prize, film festival, opera house, art auction, theatre, comic, lost painting
travel: night train, airport strike, island ferry, hiking trail, visa rules, hidden beach, hostel, mountain pass
food: bread prices, street food, wine harvest, school lunches, olive oil, michelin star, cheese scandal, coffee
education: exam results, tuition fees, teacher shortage, school phones, apprentices, kindergarten, campus, literacy
property: house prices, rent cap, mortgage, tiny homes, office towers, empty shops, landlords, building boom
""",
    styles="""
breaking: breaking, just in, alert
analysis: explained, behind, inside
opinion: opinion, in defence of, against
interview: interview, in conversation, asked
local: local, around here, on our street
investigation: revealed, exposed, leaked
live blog: live, minute by minute, as it happens
lifestyle: weekend guide, how to enjoy, at home with
""",
    title="{style}: {noun}",
    description="{style_name} in {topic}: {noun}, reported by {maker}.",
    makers="""Daily Ledger, The Courier, Northern Post, City Desk, The Observer Room, Wire One, Harbour Times, Signal,
        Plainview, Morning Bell, Open Page, The Gazette, Metro Line, Field Notes, The Standard Hour, Atlas News""",
    good=(
        "Readers finish it and subscribe.",
        "Cited by other papers.",
        "Corrected no fact in a year.",
        "Saved for later more than most.",
    ),
    bad=(
        "The headline is most of the story.",
        "Readers leave after the first paragraph.",
        "Repeats what was known last week.",
        "Sources remain unclear.",
    ),
    plain=("Four minutes to read.", "With photographs.", "Updated this morning.", "Part of a series."),
    likes="Reads about {topics}.",
    prefers="Prefers {styles} pieces.",
    price=None,
)

COURSE = DomainWords(
    topics="""
programming: Python, JavaScript, algorithms, debugging, Rust, databases, web servers, testing
data: statistics, spreadsheets, dashboards, regression, data cleaning, forecasting, SQL, charts
drawing: portraits, perspective, watercolour, charcoal, manga, figure drawing, landscapes, ink
Spanish: verbs, small talk, listening, subjunctive, slang, pronunciation, travel phrases, grammar
finance: budgeting, index funds, bookkeeping, taxes, valuation, pensions, options, cash flow
cookery: bread, knife skills, sauces, pasta, sushi, fermentation, pastry, curry
marketing: branding, newsletters, search ads, copywriting, market research, social posts, pricing, sales funnels
fitness: strength, running, mobility, pilates, kettlebells, nutrition, swimming, recovery
film making: editing, lighting, screenwriting, sound design, colour grading, storyboards, directing, camera work
mathematics: calculus, linear algebra, proofs, probability, geometry, number theory, logic, graph theory
leadership: feedback, negotiation, hiring, delegation, meetings, conflict, strategy, public speaking
gardening: compost, pruning, roses, vegetables, greenhouses, balcony pots, soil, beekeeping
""",
    styles="""
beginner: first steps in, gentle, zero-to-one
advanced: advanced, expert, mastering
project-based: hands-on, workshop, build-along
exam prep: exam-ready, certified, mock-test
short: one-hour, crash-course, bite-size
academic: university, seminar, rigorous
playful: playful, game-based, puzzle
mentored: mentored, small-group, coached
""",
    title="{style} {noun}",
    description="{style_name} course in {topic}: {style} {noun}, taught by {maker}.",
    makers="""Dr. Amara Bell, Prof. Lindgren, Coach Reyes, Hana Mori, Open Campus, Studio Nine, Tom Ashby, Skill Yard,
        Ines Faro, Night School, Greta Voss, The Guild, Priya Nair, Learn Lab, Otto Klein, Maple Institute""",
    good=(
        "Nine in ten finish it.",
        "Alumni come back for the next part.",
        "Exercises are corrected by hand.",
        "Employers ask for it by name.",
    ),
    bad=(
        "Most stop after the free lesson.",
        "The videos repeat the slides.",
        "Exercises have no solutions.",
        "Last updated years ago.",
    ),
    plain=("Twelve lessons.", "With subtitles.", "Start at any time.", "Includes a workbook."),
    likes="Studies {topics}.",
    prefers="Looks for {styles} formats.",
    price=(15.0, 120.0),
)

SOCIAL = DomainWords(
    topics="""
running: marathon, trail runs, sprints, race day, stretching, running shoes, pacing, hill repeats
recipes: dumplings, sourdough, salads, soups, brunch, cakes, tacos, pickles
fashion: outfits, sneakers, thrift finds, runway, denim, jewellery, hats, capsule wardrobe
gaming: speedruns, chess, boss fights, indie games, retro consoles, strategy, esports, board games
parenting: toddlers, bedtime, school runs, lunch boxes, newborns, teenagers, crafts, twins
travel: backpacking, road trips, hostels, city walks, islands, night trains, passports, street markets
books: novels, poetry, thrillers, bookshops, memoirs, fairy tales, book clubs, libraries
money: saving, side jobs, investing, debt, frugal living, salaries, house hunting, pensions
nature: birds, mushrooms, wild swimming, stargazing, bees, forests, rock pools, foxes
beauty: skincare, nails, hairstyles, perfume, lipstick, make-up, shaving, sunscreen
coding: web apps, open source, bug hunts, robots, shaders, terminals, code reviews, hackathons
interiors: small flats, lamps, plants, renovation, shelves, wallpaper, tiny kitchens, antiques
""",
    styles="""
funny: funny, silly, sarcastic
expert: expert, in-depth, professional
daily: daily, everyday, morning
aesthetic: cosy, pastel, cinematic
honest: honest, unfiltered, plain-spoken
beginner: beginner, starter, simple
inspiring: inspiring, fearless, uplifting
local: neighbourhood, village, hometown
""",
    title="{style} {noun} with {name}",
    description="{name} posts {style} {noun}: {style_name} content on {topic}, managed by {maker}.",
    makers="""no agency, Bright Talent, Crowdhouse, Loop Studio, Tandem, Viva Creators, Plus One, Frame Collective,
        Sidewalk, Goodwin, Openhand, Telescope, Bluebird, Kin, Harvest, Third Row""",
    good=(
        "Followers stay for years.",
        "Answers every question.",
        "Recommended by friends.",
        "Posts are saved more than liked.",
    ),
    bad=(
        "Many unfollow within a week.",
        "Mostly adverts after the first post.",
        "Reposts other people's work.",
        "Promises giveaways that never come.",
    ),
    plain=("Posts twice a week.", "Joined last spring.", "Mostly short videos.", "Based in a small town."),
    likes="Follows {topics}.",
    prefers="Enjoys {styles} accounts.",
    price=None,
)

DOMAINS: dict[str, DomainWords] = {
    "shop": SHOP,
    "film": FILM,
    "music": MUSIC,
    "news": NEWS,
    "course": COURSE,
    "social": SOCIAL,
}
